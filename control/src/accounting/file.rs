//! The file of accounts: JSON, replaced as a whole, so that it is never half of one.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Account;

/// Of the file's layout.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Out<'a> {
    version: u32,
    accounts: &'a [&'a Account],
}

#[derive(Deserialize)]
struct In {
    version: u32,
    accounts: Vec<Account>,
}

/// What the file has, and what there is to say. One that cannot be understood is put aside.
pub(super) fn read(path: &Path) -> (Vec<Account>, Option<String>) {
    let shown = path.display();
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return (Vec::new(), None),
        Err(error) => return (Vec::new(), Some(format!("accounting: {shown}: cannot read it: {error}"))),
    };
    let wrong = match serde_json::from_slice::<In>(&bytes) {
        Ok(In { version: VERSION, accounts }) => return (accounts, None),
        Ok(In { version, .. }) => format!("its version is {version}, not {VERSION}"),
        Err(error) => error.to_string(),
    };
    let aside = path.with_extension("unread");
    let kept = match fs::rename(path, &aside) {
        Ok(()) => format!("it is {} now", aside.display()),
        Err(error) => format!("it cannot be put aside: {error}"),
    };
    (Vec::new(), Some(format!("accounting: {shown}: accounts begin anew: {wrong}; {kept}")))
}

/// Writes the file.
pub(super) fn write(path: &Path, accounts: &[&Account]) -> io::Result<()> {
    let next = path.with_extension("next");
    let mut file = File::create(&next)?;
    file.write_all(&serde_json::to_vec(&Out { version: VERSION, accounts })?)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    // The name is on the disk when its folder is.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
