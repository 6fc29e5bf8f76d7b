//! Advice about memory: it changes no byte, only how long one waits for it.

use std::mem::MaybeUninit;
use std::sync::atomic::AtomicU64;

/// What the processor finds in one look at its page tables, if it is a page of that size; in bytes.
const HUGE: usize = 2 << 20;

/// What it fetches at once, in bytes.
const LINE: usize = 64;

/// So many copies of `value`, in huge pages where there are any: in a large table that is looked into at random, each look then costs one
/// wait for memory, and not another one for where that memory is. All of it is the process's from now on.
pub(crate) fn filled<T: Copy>(value: T, length: usize) -> Box<[T]> {
    let mut memory = Vec::with_capacity(length);
    advise_huge(memory.spare_capacity_mut());
    memory.resize(length, value);
    memory.into_boxed_slice()
}

/// So many words of 0, which take memory when they are written.
pub(crate) fn zeroed(length: usize) -> Box<[AtomicU64]> {
    let words = Box::into_raw(vec![0u64; length].into_boxed_slice());
    // SAFETY: the words are nobody else's, and `AtomicU64` has the size and bit validity of `u64` and, where there are 64-bit atomics of
    // the processor's own, its alignment (checked below).
    unsafe { Box::from_raw(words as *mut [AtomicU64]) }
}

const _: () = assert!(align_of::<AtomicU64>() == align_of::<u64>());

/// Asks for huge pages before the memory is used for the first time, when it is given out page by page (`transparent_hugepage`).
fn advise_huge<T>(memory: &mut [MaybeUninit<T>]) {
    let bytes = memory.as_mut_ptr_range();
    // Only whole ones.
    let start = bytes.start.cast::<u8>().map_addr(|address| address.next_multiple_of(HUGE));
    let length = (bytes.end.addr() & !(HUGE - 1)).saturating_sub(start.addr());
    if length > 0 {
        // SAFETY: the pages lie inside of memory that is borrowed exclusively, and the advice changes nothing that is in them. Refused it is
        // no loss.
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
