//! Bytes that kernel and user space share.
