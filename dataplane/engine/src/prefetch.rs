//! A hint to the cache, for stages that know what they will read: all loads of a burst are under way before the first is
//! needed.
#![expect(unsafe_code, reason = "the prefetch instruction")]

/// Asks for the cache line of one element. Past the end nothing happens; where the CPU has no such hint, neither.
#[inline(always)]
pub(crate) fn prefetch<T>(elements: &[T], index: usize) {
    if let Some(_element) = elements.get(index) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a hint, and the address is that of a live element.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(_element).cast());
        }
    }
}
