//! How much memory a piece of work took at most: what this thread asked for less what it gave back.

use std::cell::Cell;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
    static BELIEVED: Cell<usize> = const { Cell::new(0) };
}

/// Called with every block taken and, negative, given back.
pub fn add(bytes: isize) {
    let now = NOW.get() + bytes;
    NOW.set(now);
    MOST.set(MOST.get().max(now));
}

/// Called where a header's size was held against its file and found possible: room for `bytes` of pixels may be made.
pub fn believe(bytes: usize) {
    BELIEVED.set(BELIEVED.get() + bytes);
}

/// Runs `work`; gives its greatest memory beyond that at the start, and the bytes of pixels that headers were believed.
pub fn measure(work: impl FnOnce()) -> (usize, usize) {
    let start = NOW.get();
    MOST.set(start);
    BELIEVED.set(0);
    work();
    ((MOST.get() - start).max(0) as usize, BELIEVED.get())
}

/// Runs `work` without counting what it takes and keeps.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    let (now, most) = (NOW.get(), MOST.get());
    let done = work();
    NOW.set(now);
    MOST.set(most);
    done
}

/// Under test, Rust's own memory is counted; the fuzz targets count all of the process.
#[cfg(not(fuzzing))]
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};

    struct Counting;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    // SAFETY: all work is the system's; counting touches no memory but two cells of this thread.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            super::add(layout.size() as isize);
            unsafe { System.alloc(layout) }
        }
        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            super::add(layout.size() as isize);
            unsafe { System.alloc_zeroed(layout) }
        }
        unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            super::add(size as isize - layout.size() as isize);
            unsafe { System.realloc(old, layout, size) }
        }
        unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
            super::add(-(layout.size() as isize));
            unsafe { System.dealloc(old, layout) }
        }
    }
}
