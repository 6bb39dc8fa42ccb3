//! Large tables in large pages: a random access to 16 MiB in pages of 4 KiB misses the TLB as well as the cache.
#![expect(unsafe_code, reason = "madvise")]

/// Page size from which on advice is worth a system call.
#[cfg(all(target_os = "linux", not(miri)))]
const HUGE: usize = 2 << 20;

/// Asks the kernel for huge pages for a table, to be called before it is filled. A hint: what the kernel does not have it
/// does not give, and nothing else changes.
pub(crate) fn advise_huge_pages<T>(table: &[T]) {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        use std::ptr::NonNull;

        let range = table.as_ptr_range();
        let begin = range.start.addr().next_multiple_of(HUGE);
        let length = (range.end.addr() & !(HUGE - 1)).saturating_sub(begin);
        if length == 0 {
            return;
        }
        let Some(begin) = NonNull::new(table.as_ptr().with_addr(begin).cast_mut().cast()) else { return };
        // A kernel without huge pages says EINVAL: then pages are small.
        // SAFETY: the range lies inside a live allocation, and this advice changes no contents.
        let _ = unsafe { nix::sys::mman::madvise(begin, length, nix::sys::mman::MmapAdvise::MADV_HUGEPAGE) };
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = table;
}
