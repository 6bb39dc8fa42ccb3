//! Which instructions the data path uses: found out once, when the process starts.
//!
//! Each level is a token that only the CPU can give: whoever holds one may call the functions that are compiled for it.
//! Everything works at every level with the same result; only the time differs.
#![expect(unsafe_code, reason = "a prefetch takes a pointer")]

use std::fmt;

/// An instruction set. That a value exists shows that this CPU has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every CPU can.
    Scalar,
    /// AVX2 with BMI: Haswell and Zen, and later.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 with byte permutations: Ice Lake and Zen 4, and later.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// Shows that this CPU has AVX2, BMI 1 and 2, POPCNT and LZCNT.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

/// Shows that this CPU has AVX-512 F, BW, DQ, VL, VBMI and VBMI2, and what [`Avx2`] shows.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    fn detect() -> Option<Self> {
        let has = cfg!(not(miri))
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("lzcnt");
        has.then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    fn detect() -> Option<Self> {
        let has = Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2");
        has.then_some(Self(()))
    }
}

impl Isa {
    /// Works on any CPU.
    pub const SCALAR: Self = Self(Level::Scalar);

    /// The fastest that this CPU has.
    pub fn detect() -> Self {
        Self::available().last().unwrap_or(Self::SCALAR)
    }

    /// All that this CPU has, the slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let levels = [
            Some(Level::Scalar),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Level::Avx2),
            #[cfg(target_arch = "x86_64")]
            Avx512::detect().map(Level::Avx512),
        ];
        levels.into_iter().flatten().map(Self)
    }

    /// The one of a name, if this CPU has it.
    pub fn named(name: &str) -> Option<Self> {
        Self::available().find(|isa| isa.name() == name)
    }

    /// The name in logs and benchmarks.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => "avx512",
        }
    }

    pub(crate) const fn level(self) -> Level {
        self.0
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Asks for the cache line of an element, if there is such an element.
#[inline(always)]
pub(crate) fn prefetch_at<T>(elements: &[T], index: usize) {
    if let Some(element) = elements.get(index) {
        prefetch(element);
    }
}

/// Asks for the cache line of a value, to be there when it is read after other work.
#[inline(always)]
pub fn prefetch<T>(at: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint; no address can make it fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(at).cast());
    }
    let _ = at;
}

/// Asks for all cache lines of a value.
#[inline(always)]
pub(crate) fn prefetch_whole<T>(at: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in (0..size_of::<T>()).step_by(64) {
        let line = std::ptr::from_ref(at).cast::<i8>().wrapping_add(line);
        // SAFETY: a hint; no address can make it fault.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line) };
    }
    let _ = at;
}

/// Asks for the cache line of a value that will be written, and that another thread may have read since it last was: to ask for
/// it only to read would wait for the others twice.
#[inline(always)]
pub fn prefetch_to_write<T>(at: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint; no address can make it fault, and CPUs without it take it for no operation. Compilers know it only for
    // CPUs that they are told of.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) std::ptr::from_ref(at), options(nostack, preserves_flags, readonly));
    }
    let _ = at;
}
