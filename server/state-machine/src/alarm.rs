//! Alarms: what members have to complain about, and what is refused meanwhile.

use std::collections::BTreeSet;

use baton_proto::etcdserverpb::alarm_request::AlarmAction;
use baton_proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmResponse, AlarmType};

use crate::{ApplyError, RowChange, rows};

/// The alarms that are raised.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Alarms(BTreeSet<(u64, AlarmType)>);

impl Alarms {
    pub fn raised(&self) -> &BTreeSet<(u64, AlarmType)> {
        &self.0
    }

    pub fn restore(&mut self, member: u64, alarm: AlarmType) {
        self.0.insert((member, alarm));
    }

    fn any(&self, alarm: AlarmType) -> bool {
        self.0.iter().any(|(_, raised)| *raised == alarm)
    }

    /// Whether data may be read or changed at all.
    pub fn admit(&self) -> Result<(), ApplyError> {
        if self.any(AlarmType::Corrupt) {
            Err(ApplyError::Corrupt)
        } else {
            Ok(())
        }
    }

    /// Whether data may grow.
    pub fn admit_growth(&self) -> Result<(), ApplyError> {
        self.admit()?;
        if self.any(AlarmType::Nospace) {
            Err(ApplyError::NoSpace)
        } else {
            Ok(())
        }
    }

    /// Lists, raises or clears. The row is there if the set changed. A request that names no known
    /// action or alarm is answered with an empty list.
    pub fn apply(&mut self, request: &AlarmRequest) -> (AlarmResponse, Option<RowChange>) {
        let alarm = AlarmType::try_from(request.alarm).ok();
        let mut changed = None;
        let alarms = match (AlarmAction::try_from(request.action), alarm) {
            (Ok(AlarmAction::Get), Some(alarm)) => {
                let listed = self
                    .0
                    .iter()
                    .filter(|(_, raised)| alarm == AlarmType::None || *raised == alarm);
                listed
                    .map(|(member, raised)| listed_alarm(*member, *raised))
                    .collect()
            }
            (Ok(AlarmAction::Activate), Some(alarm)) if alarm != AlarmType::None => {
                if self.0.insert((request.member_id, alarm)) {
                    changed = Some(rows::alarm(request.member_id, alarm, true));
                }
                vec![listed_alarm(request.member_id, alarm)]
            }
            (Ok(AlarmAction::Deactivate), Some(alarm))
                if self.0.remove(&(request.member_id, alarm)) =>
            {
                changed = Some(rows::alarm(request.member_id, alarm, false));
                vec![listed_alarm(request.member_id, alarm)]
            }
            _ => Vec::new(),
        };
        (
            AlarmResponse {
                header: None,
                alarms,
            },
            changed,
        )
    }
}

fn listed_alarm(member_id: u64, alarm: AlarmType) -> AlarmMember {
    AlarmMember {
        member_id,
        alarm: alarm as i32,
    }
}
