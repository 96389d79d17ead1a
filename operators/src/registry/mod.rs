//! Promoted versions on disk.
