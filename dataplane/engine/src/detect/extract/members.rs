//! Which samples of a population satisfy something: one bit per sample, so that a conjunction is an AND and a count.

/// A subset of a population of samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Members {
    words: Vec<u64>,
}

impl Members {
    /// No sample of `size`.
    pub(super) fn none(size: usize) -> Self {
        Self { words: vec![0; size.div_ceil(64)] }
    }

    /// Every sample of `size`.
    pub(super) fn all(size: usize) -> Self {
        Self::where_each(&vec![0_u16; size], |_| true)
    }

    /// The samples whose value satisfies `test`; `values` holds one per sample, in order.
    pub(super) fn where_each<T>(values: &[T], test: impl Fn(&T) -> bool) -> Self {
        let word =
            |chunk: &[T]| chunk.iter().enumerate().fold(0, |word, (bit, value)| word | u64::from(test(value)) << bit);
        Self { words: values.chunks(64).map(word).collect() }
    }

    /// How many.
    pub(super) fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// How many are in both.
    pub(super) fn count_and(&self, other: &Self) -> u32 {
        self.words.iter().zip(&other.words).map(|(a, b)| (a & b).count_ones()).sum()
    }

    /// Those in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self { words: self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect() }
    }

    /// Those not in `other`.
    pub(super) fn without(&self, other: &Self) -> Self {
        Self { words: self.words.iter().zip(&other.words).map(|(a, b)| a & !b).collect() }
    }

    /// Those in either.
    pub(super) fn or(&self, other: &Self) -> Self {
        Self { words: self.words.iter().zip(&other.words).map(|(a, b)| a | b).collect() }
    }

    /// Positions, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            (0..64_usize).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_agree_with_the_positions_they_were_made_of() {
        let values: Vec<u32> = (0..200).collect();
        let even = Members::where_each(&values, |value| value % 2 == 0);
        let third = Members::where_each(&values, |value| value % 3 == 0);
        assert_eq!((even.count(), third.count()), (100, 67));
        assert_eq!(even.count_and(&third), 34);
        assert_eq!(even.and(&third).iter().collect::<Vec<_>>(), (0..200).step_by(6).collect::<Vec<_>>());
        assert_eq!(even.without(&third).count(), 66);
        assert_eq!(even.or(&third).count(), 133);
        assert_eq!((Members::all(200).count(), Members::none(200).count()), (200, 0));
    }
}
