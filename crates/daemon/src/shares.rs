//! Who may share a stack: the administrator's policy. Everybody else has stacks of his own.

use anyhow::{Context as _, bail, ensure};

/// The policy, as `--share` says it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shares(Vec<Share>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Share {
    /// Of the stack.
    name: String,
    uids: Vec<u32>,
}

impl Shares {
    /// Reads `NAME=USER+USER,...`; users as /etc/passwd has them, or numbers.
    ///
    /// # Errors
    /// It cannot be read, or names a user whom there is not: nothing is left out of a policy.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let share = one(part).with_context(|| format!("share {part}"))?;
            let again = all.iter().any(|s: &Share| s.name == share.name);
            ensure!(!again, "share {part}: that stack has its users already");
            all.push(share);
        }
        Ok(Self(all))
    }

    /// True when this user may use the shared stack of this name.
    pub fn allow(&self, name: &str, uid: u32) -> bool {
        let share = self.0.iter().find(|share| share.name == name);
        share.is_some_and(|share| share.uids.contains(&uid))
    }
}

fn one(part: &str) -> anyhow::Result<Share> {
    let (name, users) = part.split_once('=').context("it is NAME=USER+USER")?;
    if name.is_empty() || matches!(name, "default" | "private") {
        bail!("{name:?} is no name of a stack");
    }
    let uids = users.split('+').map(user_id).collect::<Result<_, _>>()?;
    let name = name.to_owned();
    Ok(Share { name, uids })
}

/// A user's number, from `/etc/passwd` (passwd(5)) or given as a number.
fn user_id(name: &str) -> anyhow::Result<u32> {
    if let Ok(uid) = name.parse() {
        return Ok(uid);
    }
    let table = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    let entry = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        found.then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    entry.with_context(|| format!("there is no user {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_named_shares() {
        let shares = Shares::read("web=root+17, db=17+18").unwrap();
        assert!(shares.allow("web", 0) && shares.allow("web", 17) && shares.allow("db", 18));
        assert!(!shares.allow("web", 18) && !shares.allow("db", 0) && !shares.allow("x", 17));
        assert_eq!(Shares::read("").unwrap(), Shares::default());
    }

    #[test]
    fn a_policy_that_cannot_be_read_is_none() {
        for bad in [
            "web",
            "web=",
            "web=1+",
            "=1",
            "default=1",
            "private=1",
            "web=1,web=2",
            "web=no-such-user",
            "web=-1",
        ] {
            assert!(Shares::read(bad).is_err(), "{bad}");
        }
    }
}
