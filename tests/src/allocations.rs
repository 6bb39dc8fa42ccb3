//! An allocator that counts, for tests of what must not allocate.
#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts what each thread allocates: to be the `#[global_allocator]` of a test.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

/// How often this thread has allocated.
pub fn so_far() -> u64 {
    ALLOCATIONS.get()
}

// SAFETY: hands everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as for this call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as for this call.
        unsafe { System.dealloc(block, layout) }
    }
}
