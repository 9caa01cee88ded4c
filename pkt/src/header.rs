//! How every fixed header is declared: a table of offset, type, getter and setter.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A value that stands in network byte order at a fixed offset of a header.
pub(crate) trait Field: Sized {
    /// Bytes that it occupies.
    const LEN: usize;
    /// Reads the value at `at`; the caller has checked, at compile time, that it lies within the `N` bytes.
    fn get<const N: usize>(bytes: &[u8; N], at: usize) -> Self;
    /// Writes the value at `at`, under the same condition.
    fn put<const N: usize>(self, bytes: &mut [u8; N], at: usize);
}

macro_rules! integer_field {
    ($($int:ty),*) => {$(
        impl Field for $int {
            const LEN: usize = size_of::<$int>();
            #[inline(always)]
            fn get<const N: usize>(bytes: &[u8; N], at: usize) -> Self {
                Self::from_be_bytes(Field::get(bytes, at))
            }
            #[inline(always)]
            fn put<const N: usize>(self, bytes: &mut [u8; N], at: usize) {
                self.to_be_bytes().put(bytes, at);
            }
        }
    )*};
}

integer_field!(u8, u16, u32, u64, u128);

impl<const L: usize> Field for [u8; L] {
    const LEN: usize = L;
    #[inline(always)]
    fn get<const N: usize>(bytes: &[u8; N], at: usize) -> Self {
        let mut field = [0; L];
        field.copy_from_slice(&bytes[at..at + L]);
        field
    }
    #[inline(always)]
    fn put<const N: usize>(self, bytes: &mut [u8; N], at: usize) {
        bytes[at..at + L].copy_from_slice(&self);
    }
}

impl Field for Ipv4Addr {
    const LEN: usize = 4;
    #[inline(always)]
    fn get<const N: usize>(bytes: &[u8; N], at: usize) -> Self {
        Self::from_bits(Field::get(bytes, at))
    }
    #[inline(always)]
    fn put<const N: usize>(self, bytes: &mut [u8; N], at: usize) {
        self.octets().put(bytes, at);
    }
}

impl Field for Ipv6Addr {
    const LEN: usize = 16;
    #[inline(always)]
    fn get<const N: usize>(bytes: &[u8; N], at: usize) -> Self {
        Self::from_bits(Field::get(bytes, at))
    }
    #[inline(always)]
    fn put<const N: usize>(self, bytes: &mut [u8; N], at: usize) {
        self.octets().put(bytes, at);
    }
}

/// Whether a field at offset `at` ends within a header of `len` bytes.
pub(crate) const fn fits<F: Field>(at: usize, len: usize) -> bool {
    at + F::LEN <= len
}

/// Declares a fixed header: its length, and a line for each field with its offset, type, getter and setter.
macro_rules! header {
    (
        $(#[$about:meta])*
        $name:ident: $len:literal bytes;
        $( $(#[$doc:meta])* $offset:ident @ $at:literal: $ty:ty, $get:ident, $set:ident; )*
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<B>(pub B);

        #[doc = concat!("Bytes of [`", stringify!($name), "`].")]
        pub const LEN: usize = $len;

        impl<'a> $name<&'a [u8; $len]> {
            /// The header that starts at `offset`; `None` where the bytes end before it does.
            #[inline]
            pub fn at(bytes: &'a [u8], offset: usize) -> Option<Self> {
                Some(Self(bytes.get(offset..)?.first_chunk()?))
            }
        }

        impl<'a> $name<&'a mut [u8; $len]> {
            /// The header that starts at `offset`, to edit; `None` where the bytes end before it does.
            #[inline]
            pub fn at_mut(bytes: &'a mut [u8], offset: usize) -> Option<Self> {
                Some(Self(bytes.get_mut(offset..)?.first_chunk_mut()?))
            }
        }

        $(
            #[doc = concat!("Offset of `", stringify!($get), "` in the header, in bytes.")]
            pub const $offset: usize = $at;
        )*

        impl<B: std::borrow::Borrow<[u8; $len]>> $name<B> {
            $(
                $(#[$doc])*
                #[inline]
                pub fn $get(&self) -> $ty {
                    const { assert!($crate::header::fits::<$ty>($at, $len)) };
                    $crate::header::Field::get(self.0.borrow(), $at)
                }
            )*
        }

        impl<B: std::borrow::BorrowMut<[u8; $len]>> $name<B> {
            $(
                #[doc = concat!("Writes [`", stringify!($get), "`](Self::", stringify!($get), ").")]
                #[inline]
                pub fn $set(&mut self, value: $ty) {
                    const { assert!($crate::header::fits::<$ty>($at, $len)) };
                    $crate::header::Field::put(value, self.0.borrow_mut(), $at);
                }
            )*
        }
    };
}
