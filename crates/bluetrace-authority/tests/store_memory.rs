//! The store in memory keeps the laws of every store.

use bluetrace_authority::memory::MemoryStore;

bluetrace_authority::store_conformance!(((), MemoryStore::new()));
