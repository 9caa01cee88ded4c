//! No bytes at all make the parser panic or point outside of them.
