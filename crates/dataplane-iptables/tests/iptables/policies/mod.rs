//! Tables of policies in the kernel: what gets through, what is read back, and what is told of.

mod enforced;
mod random;
mod yard;
