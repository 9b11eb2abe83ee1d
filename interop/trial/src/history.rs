//! What contenders say of their holds, and whether it can be.

use std::fmt;

/// One hold of one contender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Who held.
    pub who: String,
    /// The revision its key was created at.
    pub token: i64,
    /// When it knew that it held, in nanoseconds of the machine's monotonic clock.
    pub enter: i64,
    /// When it was about to release, or was killed.
    pub leave: i64,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, token, .. } = self;
        write!(
            f,
            "{who} with token {token} from {} to {}",
            self.enter, self.leave
        )
    }
}

/// How often the hold went from one contender to another; an error if two held at once, if a later token held earlier, or
/// if two had the same token.
///
/// # Errors
/// The two holds that contradict each other.
pub fn handoffs(mut holds: Vec<Hold>) -> Result<usize, String> {
    holds.sort_by_key(|hold| (hold.token, hold.enter));
    let mut handoffs = 0;
    for pair in holds.windows(2) {
        let [first, second] = pair else { continue };
        if first.token == second.token {
            return Err(format!("one token for two holds: {first}; {second}"));
        }
        if second.enter < first.leave {
            return Err(format!(
                "held before an earlier token left: {first}; {second}"
            ));
        }
        handoffs += usize::from(first.who != second.who);
    }
    Ok(handoffs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(who: &str, token: i64, enter: i64, leave: i64) -> Hold {
        Hold {
            who: who.to_owned(),
            token,
            enter,
            leave,
        }
    }

    #[test]
    fn holds_one_after_the_other_in_order_of_tokens_are_right() {
        let holds = vec![
            hold("b", 7, 30, 40),
            hold("a", 5, 10, 20),
            hold("b", 8, 40, 50),
        ];
        assert_eq!(handoffs(holds), Ok(1));
    }

    #[test]
    fn two_that_hold_at_once_are_found() {
        let holds = vec![hold("a", 5, 10, 20), hold("b", 7, 19, 40)];
        assert!(handoffs(holds).is_err());
    }

    #[test]
    fn a_later_token_that_held_earlier_is_found() {
        let holds = vec![hold("a", 7, 10, 20), hold("b", 5, 30, 40)];
        assert!(handoffs(holds).is_err());
    }

    #[test]
    fn one_token_for_two_holds_is_found() {
        let holds = vec![hold("a", 5, 10, 20), hold("b", 5, 30, 40)];
        assert!(handoffs(holds).is_err());
    }
}
