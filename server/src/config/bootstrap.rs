//! The first membership of a cluster, from `--initial-cluster`, with etcd's ids.

use std::collections::BTreeMap;

use sha1::{Digest, Sha1};

use super::url::Url;

/// A member as `--initial-cluster` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapMember {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where other members reach it, sorted.
    pub peer_urls: Vec<String>,
}

/// What a member that has no data yet knows of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// The cluster's id.
    pub cluster_id: u64,
    /// This member's id.
    pub member_id: u64,
    /// All members, this one included, by id.
    pub members: Vec<BootstrapMember>,
}

/// Id of a member: the same on every member that is given the same flags.
///
/// `added_at` is the time in unix seconds at which a member was added to a running cluster, which
/// makes an id that was removed never come back.
pub fn member_id(peer_urls: &[String], cluster_token: &str, added_at: Option<u64>) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url);
    }
    hash.update(cluster_token);
    if let Some(seconds) = added_at {
        hash.update(seconds.to_string());
    }
    leading_u64(hash)
}

/// Id of a cluster from the ids of its first members.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut sorted = member_ids.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for id in sorted {
        hash.update(id.to_be_bytes());
    }
    leading_u64(hash)
}

fn leading_u64(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    digest[..8]
        .iter()
        .fold(0, |id, &byte| id << 8 | u64::from(byte))
}

/// Reads `n1=url,n2=url`; a name given twice has several URLs.
pub(super) fn parse_initial_cluster(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut cluster: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (name, url) = pair
            .split_once('=')
            .filter(|(name, url)| !name.is_empty() && !url.is_empty())
            .ok_or_else(|| format!("empty URL or name given for {pair:?} in --initial-cluster"))?;
        cluster
            .entry(name.to_owned())
            .or_default()
            .push(Url::parse(url)?);
    }
    for urls in cluster.values_mut() {
        urls.sort();
    }
    Ok(cluster)
}

/// Checks that `cluster` has this member as it advertises itself, and computes the ids.
pub(super) fn bootstrap(
    name: &str,
    advertised: &[Url],
    cluster: &BTreeMap<String, Vec<Url>>,
    token: &str,
) -> Result<Bootstrap, String> {
    let own = cluster.get(name).ok_or_else(|| {
        format!("couldn't find local name {name:?} in the initial cluster configuration")
    })?;
    let mut seen = BTreeMap::new();
    for (member, urls) in cluster {
        for url in urls {
            if let Some(other) = seen.insert(url.as_str(), member) {
                return Err(format!(
                    "initial cluster has duplicate url {url}, given for {other:?} and {member:?}"
                ));
            }
        }
    }
    let list = |urls: &[Url]| urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",");
    if let Some(missing) = own.iter().find(|url| !advertised.contains(url)) {
        return Err(format!(
            "--initial-cluster has {name}={missing} but missing from --initial-advertise-peer-urls={}",
            list(advertised)
        ));
    }
    if let Some(missing) = advertised.iter().find(|url| !own.contains(url)) {
        return Err(format!(
            "--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={name}={}",
            list(own)
        ));
    }
    let mut members: Vec<_> = cluster
        .iter()
        .map(|(name, urls)| {
            let peer_urls: Vec<_> = urls.iter().map(Url::to_string).collect();
            BootstrapMember {
                id: member_id(&peer_urls, token, None),
                name: name.clone(),
                peer_urls,
            }
        })
        .collect();
    members.sort_by_key(|member| member.id);
    let ids: Vec<_> = members.iter().map(|member| member.id).collect();
    let own: Vec<_> = own.iter().map(Url::to_string).collect();
    Ok(Bootstrap {
        cluster_id: cluster_id(&ids),
        member_id: member_id(&own, token, None),
        members,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(name: &str, advertised: &str, cluster: &str, token: &str) -> Result<Bootstrap, String> {
        bootstrap(
            name,
            &Url::parse_list(advertised)?,
            &parse_initial_cluster(cluster)?,
            token,
        )
    }

    #[test]
    fn ids_of_a_single_member_are_those_etcd_gives() {
        let found = ids(
            "a",
            "http://127.0.0.1:41002",
            "a=http://127.0.0.1:41002",
            "tok",
        )
        .unwrap();
        assert_eq!(found.member_id, 0x13ea_b467_9b3c_8005);
        assert_eq!(found.cluster_id, 0xdf4b_71c6_d997_a4f6);
    }

    #[test]
    fn ids_of_three_members_are_those_etcd_gives() {
        let found = ids(
            "n1",
            "http://127.0.0.1:2380,http://localhost:2380",
            "n1=http://localhost:2380,n2=http://127.0.0.1:22380,\
             n3=http://127.0.0.1:32380,n1=http://127.0.0.1:2380",
            "etcd-cluster-1",
        )
        .unwrap();
        assert_eq!(found.member_id, 0x16fa_0ba2_b8c7_7995);
        assert_eq!(found.cluster_id, 0xb1e1_3c5a_7e33_db4e);
        let members: Vec<_> = found
            .members
            .iter()
            .map(|m| (m.id, m.name.as_str()))
            .collect();
        assert_eq!(
            members,
            [
                (0x16fa_0ba2_b8c7_7995, "n1"),
                (0x91bc_3c39_8fb3_c146, "n2"),
                (0xfd42_2379_fda5_0e48, "n3"),
            ]
        );
    }

    #[test]
    fn a_member_added_at_another_time_has_another_id() {
        let urls = ["http://a:1".to_owned()];
        assert_ne!(
            member_id(&urls, "t", Some(1)),
            member_id(&urls, "t", Some(2))
        );
    }

    #[test]
    fn a_cluster_that_does_not_name_this_member_as_it_advertises_itself_is_refused() {
        for (name, advertised, cluster, error) in [
            (
                "b",
                "http://a:1",
                "a=http://a:1",
                "couldn't find local name \"b\"",
            ),
            (
                "a",
                "http://a:1",
                "a=http://a:2",
                "--initial-cluster has a=http://a:2 but missing from \
                 --initial-advertise-peer-urls=http://a:1",
            ),
            (
                "a",
                "http://a:1,http://a:2",
                "a=http://a:1",
                "--initial-advertise-peer-urls has http://a:2 but missing from \
                 --initial-cluster=a=http://a:1",
            ),
            (
                "a",
                "http://a:1",
                "a=http://a:1,b=http://a:1",
                "initial cluster has duplicate url http://a:1",
            ),
            ("a", "http://a:1", "a", "empty URL or name given"),
        ] {
            let refusal = ids(name, advertised, cluster, "t").unwrap_err();
            assert!(refusal.contains(error), "{refusal}");
        }
    }
}
