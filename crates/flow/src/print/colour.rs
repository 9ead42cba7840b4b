//! The colours of a line. Never looks at the terminal: the caller knows whether there is one.

/// Whether to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Colour {
    Always,
    #[default]
    Never,
}

/// SGR parameters (ECMA-48).
#[derive(Clone, Copy, Debug)]
pub(super) enum Paint {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Magenta = 35,
    Cyan = 36,
}

impl Colour {
    pub(super) fn paint(self, paint: Paint, text: &str) -> String {
        match self {
            Self::Always => format!("\u{1b}[{}m{text}\u{1b}[0m", paint as u8),
            Self::Never => text.to_owned(),
        }
    }
}
