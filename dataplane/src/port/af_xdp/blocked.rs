//! What the XDP program drops: packets from prefixes that the guard of a device's interfaces blocks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData, MapError};

/// Prefixes of each family that a device may have. The kernel takes memory for those that there are.
pub const MAX_BLOCKED: u32 = 2 << 20;

/// The blocked prefixes, as a device's XDP program knows them, whichever device has the name at the time.
#[derive(Clone)]
pub struct BlockTable(Arc<Mutex<BlockMaps>>);

impl BlockTable {
    pub(super) fn new(maps: BlockMaps) -> Self {
        Self(Arc::new(Mutex::new(maps)))
    }

    /// Of each address the longest of these prefixes (address, length) says whether packets from there are dropped; where there is
    /// none, they are not. While it changes, an address may go by the old ones or the new.
    ///
    /// # Errors
    /// What the kernel answers, such as for more than [`MAX_BLOCKED`].
    pub fn set(&self, verdicts: &[(IpAddr, u8, bool)]) -> Result<(), String> {
        let mut maps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        maps.set(verdicts.iter().map(|&(address, length, verdict)| ((address, length), verdict)).collect())
    }

    /// Goes on with another program's maps, which learn what was known.
    pub(super) fn replace(&self, mut maps: BlockMaps) -> Result<(), String> {
        let mut before = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        maps.set(before.present.clone())?;
        *before = maps;
        Ok(())
    }
}

/// The maps of one program.
pub(super) struct BlockMaps {
    v4: LpmTrie<MapData, [u8; 4], u8>,
    v6: LpmTrie<MapData, [u8; 16], u8>,
    present: BTreeMap<(IpAddr, u8), bool>,
}

impl BlockMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        let missing = |name: &str| MapError::InvalidName { name: name.to_owned() };
        let v4 = LpmTrie::try_from(ebpf.take_map("blocked4").ok_or_else(|| missing("blocked4"))?)?;
        let v6 = LpmTrie::try_from(ebpf.take_map("blocked6").ok_or_else(|| missing("blocked6"))?)?;
        Ok(Self { v4, v6, present: BTreeMap::new() })
    }

    /// Those that another process has made.
    pub(super) fn inherit(v4: MapData, v6: MapData) -> Result<Self, MapError> {
        let v4 = LpmTrie::try_from(Map::LpmTrie(v4))?;
        let v6 = LpmTrie::try_from(Map::LpmTrie(v6))?;
        // So that those go that are blocked no longer.
        let known4 = v4.iter().filter_map(Result::ok).map(|(key, verdict): (Key<[u8; 4]>, u8)| {
            ((IpAddr::from(key.data()), key.prefix_len() as u8), verdict != 0)
        });
        let known6 = v6.iter().filter_map(Result::ok).map(|(key, verdict): (Key<[u8; 16]>, u8)| {
            ((IpAddr::from(key.data()), key.prefix_len() as u8), verdict != 0)
        });
        let present = known4.chain(known6).collect();
        Ok(Self { v4, v6, present })
    }

    fn set(&mut self, wanted: BTreeMap<(IpAddr, u8), bool>) -> Result<(), String> {
        let in_words = |error: MapError| format!("the table of blocked prefixes: {error}");
        // What passes first, so that a prefix that comes with exceptions does not block them.
        for blocks in [false, true] {
            for (&(address, length), _) in wanted.iter().filter(|(_, verdict)| **verdict == blocks) {
                if self.present.get(&(address, length)) != Some(&blocks) {
                    self.insert(address, length, blocks).map_err(in_words)?;
                    self.present.insert((address, length), blocks);
                }
            }
        }
        let gone: Vec<_> =
            self.present.keys().filter(|prefix| !wanted.contains_key(prefix)).copied().collect();
        for (address, length) in gone {
            self.remove(address, length).map_err(in_words)?;
            self.present.remove(&(address, length));
        }
        Ok(())
    }

    fn insert(&mut self, address: IpAddr, length: u8, blocks: bool) -> Result<(), MapError> {
        let (length, blocks) = (length.into(), u8::from(blocks));
        match address {
            IpAddr::V4(address) => self.v4.insert(&Key::new(length, address.octets()), blocks, 0),
            IpAddr::V6(address) => self.v6.insert(&Key::new(length, address.octets()), blocks, 0),
        }
    }

    fn remove(&mut self, address: IpAddr, length: u8) -> Result<(), MapError> {
        match address {
            IpAddr::V4(address) => self.v4.remove(&Key::new(length.into(), address.octets())),
            IpAddr::V6(address) => self.v6.remove(&Key::new(length.into(), address.octets())),
        }
    }
}
