//! A cursor over the bytes of a record: takes parts from the front, borrowed, and says which record ended early.
//! Used by every record kind.

use super::RecordError;

/// What is left of a record.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    record: &'static str,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts behind the format byte, which must be `supported`.
    pub(super) fn open(record: &'static str, supported: u8, bytes: &'a [u8]) -> Result<Reader<'a>, RecordError> {
        let mut reader = Reader { record, bytes };
        match reader.u8()? {
            found if found == supported => Ok(reader),
            found if found > supported => Err(RecordError::NewerFormat { record, found, supported }),
            _ => Err(reader.malformed("an older format, which this program does not read")),
        }
    }

    pub(super) fn malformed(&self, problem: &'static str) -> RecordError {
        RecordError::Malformed { record: self.record, problem }
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or_else(|| self.malformed("it ends early"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        Ok(self.take(N)?.try_into().expect("take returned N bytes"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, RecordError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, RecordError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes behind a u32 length.
    pub(super) fn long(&mut self) -> Result<&'a [u8], RecordError> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    /// Text behind a u16 length.
    pub(super) fn text(&mut self) -> Result<&'a str, RecordError> {
        let length = self.u16()?;
        std::str::from_utf8(self.take(length.into())?).map_err(|_| self.malformed("text is not UTF-8"))
    }

    /// Everything that is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Refuses bytes behind the end.
    pub(super) fn finish(self) -> Result<(), RecordError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.malformed("bytes follow its end")) }
    }
}

/// `length` as the length field `T` of `part`.
pub(super) fn length<T: TryFrom<usize>>(
    record: &'static str,
    part: &'static str,
    length: usize,
    limit: usize,
) -> Result<T, RecordError> {
    T::try_from(length).map_err(|_| RecordError::TooLong { record, part, got: length, limit })
}
