//! Decisions drawn from a fuzzer's bytes.

/// What is left of them. Where nothing is left, everything is zero.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    /// True for one byte in `n`.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub(crate) fn pick<'b, T>(&mut self, from: &'b [T]) -> Option<&'b T> {
        if from.is_empty() {
            return None;
        }
        from.get(self.below(from.len()))
    }

    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from(self.byte()) << 8 | u16::from(self.byte())
    }

    pub(crate) fn i64(&mut self) -> i64 {
        let mut number = [0; 8];
        let taken = self.take(8);
        number[..taken.len()].copy_from_slice(taken);
        i64::from_le_bytes(number)
    }

    /// Changes some bytes of `original`, cuts it, or makes it longer.
    pub(crate) fn changed(&mut self, original: &[u8]) -> Vec<u8> {
        let mut bytes = original.to_vec();
        for _ in 0..self.below(8) {
            let at = usize::from(self.u16());
            let value = self.byte();
            match self.below(4) {
                0 => bytes.truncate(at % (bytes.len() + 1)),
                1 => bytes.insert(at % (bytes.len() + 1), value),
                _ if bytes.is_empty() => {}
                _ => {
                    let at = at % bytes.len();
                    bytes[at] ^= value;
                }
            }
        }
        bytes
    }
}
