//! The allocator of the dataplane: large tables lie on huge pages.
//!
//! A table of 16 MiB that packets reach at random has 4 096 small pages, more than a CPU remembers, so that half of the
//! look-ups would walk page tables first. With huge pages it has eight. Where the system offers none, nothing changes.
#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};

use nix::libc;

/// Size of a huge page.
const HUGE: usize = 2 << 20;
/// From this size on blocks begin where a huge page does, so that they lie on nothing else but for their end.
const LARGE: usize = 2 * HUGE;

/// The system's allocator, with advice.
#[derive(Clone, Copy, Debug)]
pub struct HugePages;

// SAFETY: hands everything on to the system's allocator, asking for more alignment than its caller does, which blocks need not have
// to be freed or moved; advice does not change what memory holds.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for this call.
        advised(unsafe { System.alloc(placed(layout)) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() < LARGE {
            // SAFETY: as for this call.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // The system would write the zeros before the advice, and so on small pages.
        // SAFETY: as for this call.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block has this size.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as for this call.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as for this call.
        advised(unsafe { System.realloc(block, layout, size) }, size)
    }
}

/// A layout, of a large block beginning where a huge page does.
fn placed(layout: Layout) -> Layout {
    if layout.size() < LARGE { layout } else { layout.align_to(HUGE).unwrap_or(layout) }
}

/// Asks for huge pages under a large block.
fn advised(block: *mut u8, size: usize) -> *mut u8 {
    /// Pages are advised whole; the smallest size there is.
    const PAGE: usize = 4096;
    if size >= LARGE && !block.is_null() {
        let skip = block.align_offset(PAGE);
        // SAFETY: whole pages inside the block. Advice may be refused, and then nothing has happened.
        unsafe { libc::madvise(block.add(skip).cast(), (size - skip) & !(PAGE - 1), libc::MADV_HUGEPAGE) };
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's flags of the mapping that an address is in.
    fn flags(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((first, end)) = range
                && let (Ok(first), Ok(end)) = (usize::from_str_radix(first, 16), usize::from_str_radix(end, 16))
            {
                inside = (first..end).contains(&address);
            }
            if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
                return flags.to_owned();
            }
        }
        panic!("no mapping holds {address:x}");
    }

    #[test]
    fn large_tables_are_zero_and_advised_however_they_are_aligned() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            println!("skipped: this kernel has no transparent huge pages");
            return;
        }
        for align in [8, 64, 4096] {
            let layout = Layout::from_size_align(16 << 20, align).unwrap();
            // SAFETY: of a size that is not zero, and freed below with the same layout.
            let block = unsafe { HugePages.alloc_zeroed(layout) };
            assert!(!block.is_null());
            // SAFETY: 16 MiB that were just allocated, and zeroed.
            let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            let flags = flags(bytes.as_ptr().addr() + (8 << 20));
            // SAFETY: as above; nothing refers to it any more.
            unsafe { HugePages.dealloc(block, layout) };
            assert!(flags.split(' ').any(|flag| flag == "hg"), "{flags}");
        }
    }
}
