//! Large pieces of memory, and advice about memory: that changes no byte, only how long one waits for it.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// What the processor finds in one look at its page tables, if it is a page of that size; in bytes.
const HUGE: usize = 2 << 20;

/// What it fetches at once, in bytes.
const LINE: usize = 64;

/// So many copies of `value`, in huge pages where there are any: in a large table that is looked into at random, each look then costs one
/// wait for memory, and not another one for where that memory is. All of it is the process's from now on.
pub(crate) fn filled<T: Copy>(value: T, length: usize) -> Box<[T]> {
    let mut memory = room(length);
    memory.resize(length, value);
    memory.into_boxed_slice()
}

/// So many words of 0 from the start of a page on, which take memory when they are written.
pub(crate) struct Zeroed {
    base: NonNull<AtomicU64>,
    length: usize,
}

// SAFETY: the memory is its own, and it gives out nothing but shared atomics.
unsafe impl Send for Zeroed {}
// SAFETY: as above.
unsafe impl Sync for Zeroed {}

impl Zeroed {
    /// The same in huge pages where there are any: for what is looked into at random as soon as it is used at all.
    pub(crate) fn huge(length: usize) -> Self {
        let zeroed = Zeroed::new(length);
        advise(zeroed.base.as_ptr().cast(), length * size_of::<u64>());
        zeroed
    }

    /// Panics if the process may not have so much.
    pub(crate) fn new(length: usize) -> Self {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let bytes = (length * size_of::<u64>()).max(1);
        // SAFETY: a new mapping at a place that the kernel chooses, of no file.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind | libc::MAP_NORESERVE, -1, 0) };
        assert!(memory != libc::MAP_FAILED, "{bytes} bytes of memory: {}", std::io::Error::last_os_error());
        Zeroed { base: NonNull::new(memory.cast()).expect("a mapping is not at 0"), length }
    }
}

impl Deref for Zeroed {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: mapped with this length until `self` is dropped, and aligned to a page; every bit pattern is a number.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.length) }
    }
}

impl Drop for Zeroed {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length, and nobody borrows it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), (self.length * size_of::<u64>()).max(1)) };
    }
}

/// Room for so many values, in huge pages where there are any.
pub(crate) fn room<T>(length: usize) -> Vec<T> {
    let mut memory: Vec<T> = Vec::with_capacity(length);
    let spare = memory.spare_capacity_mut();
    advise(spare.as_mut_ptr().cast(), size_of_val(spare));
    memory
}

/// Asks for huge pages before memory of our own is used for the first time, when it is given out page by page (`transparent_hugepage`).
fn advise(memory: *mut u8, length: usize) {
    // Only whole ones.
    let start = memory.map_addr(|address| address.next_multiple_of(HUGE));
    let length = ((memory.addr() + length) & !(HUGE - 1)).saturating_sub(start.addr());
    if length > 0 {
        // SAFETY: the pages lie inside of memory that is nobody else's, and the advice changes nothing that is in them. Refused it is no loss.
        unsafe { libc::madvise(start.cast(), length, libc::MADV_HUGEPAGE) };
    }
}

/// Begins to fetch what is going to be read soon, and does not wait for it.
#[inline]
pub(crate) fn prefetch<T>(place: &T) {
    let start = std::ptr::from_ref(place).cast::<i8>();
    let end = start.wrapping_byte_add(size_of::<T>());
    let mut line = start.map_addr(|address| address & !(LINE - 1));
    while line < end {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing that the program could see, and cannot fault.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line);
        }
        line = line.wrapping_byte_add(LINE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_filled_whatever_its_length() {
        for length in [0, 1, 1000, HUGE / 4, HUGE, HUGE + 1] {
            let memory = filled(0x1234_5678_u32, length);
            assert_eq!(memory.len(), length);
            assert!(memory.iter().all(|word| *word == 0x1234_5678));
        }
    }
}
