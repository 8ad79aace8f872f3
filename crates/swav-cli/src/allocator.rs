//! Memory for large tensors.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, which asks for huge pages where much is wanted at once: maps of many channels are walked across, and
/// with pages of 4 KiB each step would be on another. Where the system grants none, nothing is lost.
pub struct HugePages;

/// Bytes from which it asks: a huge page.
const LARGE: usize = 2 << 20;

/// Asks for huge pages under an allocation.
fn ask(start: *mut u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    if bytes >= LARGE && !start.is_null() {
        const PAGE: usize = 4096;
        let skipped = start.align_offset(PAGE);
        // SAFETY: the pages lie within an allocation. The advice changes nothing that a program can see.
        unsafe {
            libc::madvise(
                start.wrapping_add(skipped).cast(),
                bytes - skipped,
                libc::MADV_HUGEPAGE,
            )
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller guarantees what the system's allocator asks for.
        let start = unsafe { System.alloc(layout) };
        ask(start, layout.size());
        start
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let start = unsafe { System.alloc_zeroed(layout) };
        ask(start, layout.size());
        start
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        let start = unsafe { System.realloc(start, layout, size) };
        ask(start, size);
        start
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) };
    }
}
