//! Whether `ip rule`s make the answer depend on more than the destination.
//!
//! Only the tables local, main and default are mirrored, and only the default order of asking them
//! is followed. So all rules must amount to that order for every packet that a stack sends;
//! otherwise destinations of the family are left to the kernel.

use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

const LOCAL: u32 = 255;
const MAIN: u32 = 254;
const DEFAULT: u32 = 253;

/// Do these rules amount to "local, main, default"? `v4` says which family they are of: IPv6 has
/// no table "default".
pub(super) fn are_plain(rules: &[RuleMessage], v4: bool) -> bool {
    let mut rules: Vec<&RuleMessage> = rules.iter().filter(|rule| concerns_us(rule)).collect();
    rules.sort_by_key(|rule| priority(rule));
    let mut asked = Vec::new();
    for rule in rules {
        match rule.header.action {
            RuleAction::Nop => continue,
            RuleAction::ToTable if !is_selective(rule) => {}
            _ => return false,
        }
        let table = table(rule);
        if !asked.contains(&table) {
            asked.push(table);
        }
    }
    if v4 {
        asked == [LOCAL, MAIN, DEFAULT]
    } else {
        asked == [LOCAL, MAIN]
    }
}

/// Can the rule match a packet of a stack? Such a packet comes from this host (its input interface
/// is `lo`), and has no mark: sockets with a mark are not accelerated.
fn concerns_us(rule: &RuleMessage) -> bool {
    if rule.header.flags.contains(RuleFlags::Invert) {
        return true;
    }
    let (mut mark, mut mask) = (0, u32::MAX);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => mask = *value,
            RuleAttribute::Iifname(name) if name != "lo" => return false,
            _ => {}
        }
    }
    mark & mask == 0
}

/// Does the rule pick packets, or change what a table answers? Attributes that are not known here
/// may do so.
fn is_selective(rule: &RuleMessage) -> bool {
    let header = &rule.header;
    let selectors = header.src_len != 0 || header.dst_len != 0 || header.tos != 0;
    let inverted = header.flags.contains(RuleFlags::Invert);
    selectors || inverted || !rule.attributes.iter().all(is_harmless)
}

fn is_harmless(attribute: &RuleAttribute) -> bool {
    match attribute {
        RuleAttribute::Priority(_) | RuleAttribute::Table(_) | RuleAttribute::Protocol(_) => true,
        // A mark of zero under some mask: every unmarked packet has it.
        RuleAttribute::FwMark(_) | RuleAttribute::FwMask(_) => true,
        // The kernel always sends these; all ones means none.
        RuleAttribute::SuppressPrefixLen(len) => *len == u32::MAX,
        RuleAttribute::SuppressIfGroup(group) => *group == u32::MAX,
        RuleAttribute::L3MDev(on) => !on,
        _ => false,
    }
}

fn priority(rule: &RuleMessage) -> u32 {
    let priority = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Priority(priority) => Some(*priority),
            _ => None,
        });
    // The kernel leaves out the number of the first rule, 0.
    priority.unwrap_or(0)
}

fn table(rule: &RuleMessage) -> u32 {
    let table = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Table(table) => Some(*table),
            _ => None,
        });
    table.unwrap_or(u32::from(rule.header.table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(priority: u32, table: u32, more: &[RuleAttribute]) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.action = RuleAction::ToTable;
        rule.attributes = vec![
            RuleAttribute::Table(table),
            RuleAttribute::SuppressPrefixLen(u32::MAX),
            RuleAttribute::Priority(priority),
        ];
        rule.attributes.extend_from_slice(more);
        rule
    }

    fn default_rules() -> Vec<RuleMessage> {
        vec![
            rule(0, LOCAL, &[]),
            rule(32766, MAIN, &[]),
            rule(32767, DEFAULT, &[]),
        ]
    }

    fn with(more: RuleMessage) -> bool {
        let mut rules = default_rules();
        rules.push(more);
        are_plain(&rules, true)
    }

    #[test]
    fn default_order() {
        assert!(are_plain(&default_rules(), true));
        assert!(are_plain(&default_rules()[..2], false));
        assert!(!are_plain(&default_rules()[..2], true));
        assert!(!are_plain(&default_rules(), false));
        assert!(!are_plain(&[], true) && !are_plain(&[], false));
        let mut moved = default_rules();
        moved[0] = rule(40000, LOCAL, &[]);
        assert!(!are_plain(&moved, true));
    }

    #[test]
    fn rules_that_change_nothing() {
        assert!(with(rule(100, MAIN, &[])));
        assert!(with(rule(
            100,
            52,
            &[
                RuleAttribute::FwMark(0x80000),
                RuleAttribute::FwMask(0xff0000)
            ]
        )));
        assert!(with(rule(
            100,
            52,
            &[RuleAttribute::Iifname("eth0".into())]
        )));
        let mut nothing = rule(100, 0, &[]);
        nothing.header.action = RuleAction::Nop;
        assert!(with(nothing));
    }

    #[test]
    fn rules_that_matter() {
        assert!(!with(rule(100, 52, &[])));
        assert!(!with(rule(100, 52, &[RuleAttribute::Iifname("lo".into())])));
        assert!(!with(rule(
            100,
            52,
            &[RuleAttribute::FwMark(0x10), RuleAttribute::FwMask(0x0f)]
        )));
        assert!(!with(rule(
            100,
            MAIN,
            &[RuleAttribute::Source([10, 0, 0, 1].into())]
        )));
        assert!(!with(rule(
            100,
            MAIN,
            &[RuleAttribute::SuppressPrefixLen(0)]
        )));
        assert!(!with(rule(1000, 0, &[RuleAttribute::L3MDev(true)])));
        let mut inverted = rule(100, 52, &[RuleAttribute::FwMark(1)]);
        inverted.header.flags = RuleFlags::Invert;
        assert!(!with(inverted));
        let mut refused = rule(100, 0, &[]);
        refused.header.action = RuleAction::Unreachable;
        assert!(!with(refused));
        let mut from = rule(100, 52, &[]);
        from.header.src_len = 24;
        assert!(!with(from));
    }
}
