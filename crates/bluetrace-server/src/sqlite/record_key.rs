//! Owns where the records of an upload lie: the keys of the table `uploaded_record`, which are
//! `upload << 20 | place in the upload`, so that the records of an upload lie together and in order.

use bluetrace_authority::store::UploadKey;
use bluetrace_protocol::limits::MAX_UPLOAD_RECORDS;

/// The key of the record at a place of an upload, 0 for the first.
pub(super) fn record_key(upload: UploadKey, place: u32) -> i64 {
    (upload.0 << PLACE_BITS).saturating_add(i64::from(place))
}

/// The first and the last key that the records of an upload from a place on can have. There is none between them for a place
/// that no upload has.
pub(super) fn record_keys_from(upload: UploadKey, place: u32) -> [i64; 2] {
    [record_key(upload, place), record_key(upload, MAX_PLACE)]
}

/// The place within its upload of the record with this key.
pub(super) fn place_of(key: i64) -> u32 {
    // the mask leaves 20 bits
    u32::try_from(key & i64::from(MAX_PLACE)).unwrap_or(MAX_PLACE)
}

/// An upload's number is this many bits to the left of the places of its records.
const PLACE_BITS: u32 = 20;

/// The highest place there can be within an upload.
const MAX_PLACE: u32 = (1 << PLACE_BITS) - 1;

const _: () = assert!(MAX_UPLOAD_RECORDS <= 1 << PLACE_BITS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_of_an_upload_lie_together_and_in_order() {
        let [first, last] = record_keys_from(UploadKey(7), 0);
        assert_eq!((first, place_of(first)), (7 << 20, 0));
        assert_eq!((last, place_of(last)), ((8 << 20) - 1, MAX_PLACE));
        assert_eq!(record_key(UploadKey(7), 5), (7 << 20) + 5);
        assert_eq!(record_key(UploadKey(8), 0), last + 1);
    }

    #[test]
    fn from_a_place_that_no_upload_has_there_are_no_keys() {
        for place in [MAX_PLACE + 1, u32::MAX] {
            let [first, last] = record_keys_from(UploadKey(7), place);
            assert!(first > last, "{place}");
        }
    }
}
