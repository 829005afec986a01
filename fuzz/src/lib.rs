//! The targets, and the memory of the whole process counted while they run: that of GDAL and HDF5 too.

pub use csmoe::data::fuzz::*;

/// The C library's memory functions, told before they are called. Not together with a sanitizer, which replaces them itself.
#[cfg(feature = "meter")]
mod memory {
    use csmoe::data::meter::add;
    use std::ffi::{c_int, c_void};

    /// No file of the corpus, nor what it may be believed, comes near; a header that asks for more is found here.
    const MOST: usize = 1 << 30;

    unsafe extern "C" {
        fn __libc_malloc(size: usize) -> *mut c_void;
        fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
        fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
        fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
        fn __libc_free(old: *mut c_void);
        fn malloc_usable_size(at: *mut c_void) -> usize;
    }

    fn size(at: *mut c_void) -> isize {
        // SAFETY: `at` is null or a block that was not given back yet.
        if at.is_null() { 0 } else { unsafe { malloc_usable_size(at) as isize } }
    }

    fn taken(at: *mut c_void) -> *mut c_void {
        add(size(at));
        at
    }

    // SAFETY of all: the work is the C library's; counting reads a block's size and writes two cells of this thread.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
        if size > MOST { std::ptr::null_mut() } else { taken(unsafe { __libc_malloc(size) }) }
    }
    #[unsafe(no_mangle)]
    unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
        if count.saturating_mul(size) > MOST {
            return std::ptr::null_mut();
        }
        taken(unsafe { __libc_calloc(count, size) })
    }
    #[unsafe(no_mangle)]
    unsafe extern "C" fn realloc(old: *mut c_void, new: usize) -> *mut c_void {
        if new > MOST {
            return std::ptr::null_mut();
        }
        let before = size(old);
        let at = unsafe { __libc_realloc(old, new) };
        if !at.is_null() || new == 0 {
            add(size(at) - before);
        }
        at
    }
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
        if size > MOST { std::ptr::null_mut() } else { taken(unsafe { __libc_memalign(align, size) }) }
    }
    #[unsafe(no_mangle)]
    unsafe extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
        unsafe { memalign(align, size) }
    }
    #[unsafe(no_mangle)]
    unsafe extern "C" fn posix_memalign(at: *mut *mut c_void, align: usize, size: usize) -> c_int {
        const NO_MEMORY: c_int = 12;
        unsafe { *at = memalign(align, size) };
        if unsafe { *at }.is_null() { NO_MEMORY } else { 0 }
    }
    #[unsafe(no_mangle)]
    unsafe extern "C" fn free(old: *mut c_void) {
        add(-size(old));
        unsafe { __libc_free(old) }
    }
}
