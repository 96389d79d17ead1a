//! Answers requests with a revision.
