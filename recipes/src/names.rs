//! Names that become a part of a key.

use crate::Error;

/// Refuses what cannot be one part of a key between two `/`.
///
/// # Errors
/// [`Error::Invalid`], saying what to do.
pub(crate) fn check_segment(what: &str, name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::Invalid(format!(
            "a {what} cannot be empty: give it at least one character"
        )));
    }
    if name.contains('/') {
        return Err(Error::Invalid(format!(
            "a {what} cannot contain \"/\", which divides the parts of a key: use \"-\" or \".\" in {name:?}"
        )));
    }
    Ok(())
}
