//! Source ports of masqueraded flows.
