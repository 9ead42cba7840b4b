//! Mistakes that the tests make on purpose, to see that they notice them. Outside of tests there are none.

/// A mistake that somebody could make in the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]

pub(crate) enum Bug {
    ExceptIgnored,
    LongerPrefixInheritsNothing,
    EndPortIgnored,
    NamedPortOfOnePodForAll,
    NamedPortOfTheWrongEnd,
    EgressAlwaysIsolated,
    EmptyListOfPeersIsNobody,
    NamespacesIgnored,
    StaleRow,
    PassAllows,
    PrioritiesReversed,
    ProtocolIgnored,
    SecondRuleLost,
}

#[cfg(test)]
impl Bug {
    pub(crate) const ALL: [Self; 13] = [
        Self::ExceptIgnored,
        Self::LongerPrefixInheritsNothing,
        Self::EndPortIgnored,
        Self::NamedPortOfOnePodForAll,
        Self::NamedPortOfTheWrongEnd,
        Self::EgressAlwaysIsolated,
        Self::EmptyListOfPeersIsNobody,
        Self::NamespacesIgnored,
        Self::StaleRow,
        Self::PassAllows,
        Self::PrioritiesReversed,
        Self::ProtocolIgnored,
        Self::SecondRuleLost,
    ];
}

#[cfg(test)]
thread_local! {
    static MADE: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether `bug` is made now.
#[cfg(test)]
pub(crate) fn made(bug: Bug) -> bool {
    MADE.get() == Some(bug)
}

/// Whether `bug` is made now: never.
#[cfg(not(test))]
pub(crate) const fn made(_: Bug) -> bool {
    false
}

/// Makes `bug` on this thread while `body` runs.
#[cfg(test)]
pub(crate) fn with<T>(bug: Bug, body: impl FnOnce() -> T) -> T {
    struct Unmade;
    impl Drop for Unmade {
        fn drop(&mut self) {
            MADE.set(None);
        }
    }
    let _unmade = Unmade;
    MADE.set(Some(bug));
    body()
}
