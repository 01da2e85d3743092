//! The tables are consistent, values parse and print, and bad ones are refused in clear words.

use std::collections::HashSet;

use flyover_config::{
    DaemonOpts, Kind, Options, Problem, ProcessOpts, Profile, StackOpts, StackSelect, VnicChoice,
    docs, vars,
};
use proptest::prelude::*;

fn check_table<O: Options + PartialEq + std::fmt::Debug>() {
    let mut seen = HashSet::new();
    for (index, spec) in O::SPECS.iter().enumerate() {
        for key in [spec.name, spec.env, spec.flag] {
            assert!(!key.is_empty(), "{}", spec.name);
        }
        assert!(spec.env.starts_with(vars::PREFIX), "{}", spec.env);
        assert!(
            seen.insert(spec.env) & seen.insert(spec.flag),
            "{} twice",
            spec.name
        );
        assert!(
            !spec.short.is_empty() && !spec.short.ends_with('.'),
            "{}",
            spec.short
        );
        assert!(
            spec.long.trim_end().ends_with('.'),
            "{}: {}",
            spec.name,
            spec.long
        );
        if let Kind::Pow2 { min, max } = spec.kind {
            assert!(
                min.is_power_of_two() && max.is_power_of_two(),
                "{}",
                spec.name
            );
        }
        // The default is a legal value and its text is read back as itself.
        let mut options = O::DEFAULT;
        let text = options.shown(index).to_string();
        options.set_at(index, &text).unwrap();
        assert_eq!(options, O::DEFAULT, "{}", spec.name);
    }
}

#[test]
fn tables() {
    check_table::<StackOpts>();
    check_table::<ProcessOpts>();
    check_table::<DaemonOpts>();
    // `flyover run` takes the flags of both.
    let flags: HashSet<_> = StackOpts::SPECS.iter().map(|s| s.flag).collect();
    assert!(ProcessOpts::SPECS.iter().all(|s| !flags.contains(s.flag)));
    assert_eq!(StackOpts::DEFAULT.conflict(), None);
}

fn stack(name: &str, text: &str) -> Result<StackOpts, String> {
    let mut o = StackOpts::DEFAULT;
    o.set(name, text).map(|()| o).map_err(|e| e.to_string())
}

#[test]
fn numbers() {
    assert_eq!(stack("max_sockets", "1000").unwrap().max_sockets, 1024);
    assert_eq!(stack("max_sockets", " 64 ").unwrap().max_sockets, 64);
    assert_eq!(stack("tcp_rmem_max", "8M").unwrap().tcp_rmem_max, 8 << 20);
    assert_eq!(
        stack("tcp_rmem_max", "64KiB").unwrap().tcp_rmem_max,
        64 << 10
    );
    assert_eq!(stack("delack_ms", "0").unwrap().delack_ms, 0);
    assert_eq!(
        stack("max_sockets", "7").unwrap_err(),
        "FLYOVER_MAX_SOCKETS=7: out of range (takes 64 to 262144, rounded up to a power of two)"
    );
    assert_eq!(
        stack("delack_ms", "501").unwrap_err(),
        "FLYOVER_DELACK_MS=501: out of range (takes 0 to 500 ms)"
    );
    assert_eq!(
        stack("synack_retries", "many").unwrap_err(),
        "FLYOVER_SYNACK_RETRIES=many: not a number (takes 0 to 255)"
    );
    for bad in [
        "",
        "-1",
        "+5",
        "1.5",
        "0x10",
        "5k5",
        "99999999999999999999",
        "18446744073709551615",
    ] {
        assert!(stack("max_sockets", bad).is_err(), "{bad}");
        assert!(stack("tcp_rmem", bad).is_err(), "{bad}");
    }
    assert!(stack("tcp_rmem", "99999999999G").is_err());
    assert_eq!(
        stack("nonsense", "1").unwrap_err(),
        "unknown option nonsense"
    );
}

#[test]
fn words_and_switches() {
    let mut p = ProcessOpts::DEFAULT;
    p.set("profile", "Latency").unwrap();
    assert_eq!((p.profile, p.spin()), (Profile::Latency, 1_000_000));
    p.set("spin_usec", "7").unwrap();
    assert_eq!(p.spin(), 7);
    p.set("spin_usec", "auto").unwrap();
    assert_eq!(p.spin_usec, None);
    for (text, on) in [
        ("1", true),
        ("on", true),
        ("true", true),
        ("", false),
        ("off", false),
    ] {
        p.set("inherit", text).unwrap();
        assert_eq!(p.inherit, on, "{text}");
    }
    assert_eq!(
        p.set("inherit", "maybe").unwrap_err().to_string(),
        "FLYOVER_INHERIT=maybe: neither on nor off (takes on or off)"
    );
    assert_eq!(
        p.set("vnic", "dpdk").unwrap_err().to_string(),
        "FLYOVER_VNIC=dpdk: not one of the choices (takes auto, packet or xdp)"
    );
    assert_eq!(p.vnic, VnicChoice::Auto);
}

#[test]
fn stacks_and_interfaces() {
    let mut p = ProcessOpts::DEFAULT;
    for (text, want) in [
        ("", StackSelect::Default),
        ("private", StackSelect::Private),
    ] {
        p.set("stack", text).unwrap();
        assert_eq!(p.stack, want);
    }
    p.set("stack", "web-1.a").unwrap();
    assert!(matches!(p.stack, StackSelect::Named(n) if n.as_str() == "web-1.a"));
    assert_eq!(p.set("stack", "a/b").unwrap_err().problem, Problem::BadName);
    assert_eq!(
        p.set("stack", &"a".repeat(33)).unwrap_err().problem,
        Problem::TooLong
    );

    p.set("interfaces", "eth0, eth1,,eth0").unwrap();
    assert_eq!(p.interfaces.iter().collect::<Vec<_>>(), ["eth0", "eth1"]);
    assert_eq!(p.interfaces.to_string(), "eth0,eth1");
    for (bad, problem) in [
        ("a b", Problem::BadName),
        ("..", Problem::BadName),
        ("a:1", Problem::BadName),
        ("interface-name-16", Problem::TooLong),
        ("a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q", Problem::TooMany),
    ] {
        assert_eq!(
            p.set("interfaces", bad).unwrap_err().problem,
            problem,
            "{bad}"
        );
    }
    assert_eq!(p.interfaces.len(), 2);
}

#[test]
fn daemon() {
    let mut d = DaemonOpts::DEFAULT;
    d.set("mode", "660").unwrap();
    assert_eq!(d.mode, 0o660);
    assert!(d.set("mode", "1000").is_err() && d.set("mode", "9").is_err());
    let at = DaemonOpts::SPECS
        .iter()
        .position(|s| s.name == "mode")
        .unwrap();
    assert_eq!(d.shown(at).to_string(), "0660");
    assert!(d.set("socket", &"x".repeat(108)).is_err());
    assert!(d.set("socket", "a\0b").is_err());
}

#[test]
fn environment() {
    let env: [(&[u8], &[u8]); 7] = [
        (b"PATH", b"/bin"),
        (b"FLYOVER_MAX_SOCKETS", b"100"),
        (b"FLYOVER_SYNACK_RETRIES", b"300"),
        (b"FLYOVER_TIMESTAMPS", b"off"),
        (b"FLYOVER_BUFFERS", b""),
        (b"FLYOVER_SACK", b"\xff"),
        (b"FLYOVER_STACK", b"ignored here"),
    ];
    let mut o = StackOpts::DEFAULT;
    let mut errors = Vec::new();
    vars::apply_all(&mut o, env.into_iter(), |e| errors.push(e.problem));
    assert_eq!(
        (o.max_sockets, o.timestamps, o.synack_retries, o.sack),
        (128, false, 5, true)
    );
    assert_eq!(errors, [Problem::OutOfRange, Problem::NotUtf8]);
    assert!(vars::is_known("FLYOVER_SPIN") && !vars::is_known("FLYOVER_SPINN"));
}

#[test]
fn conflicts() {
    for (name, text) in [
        ("tcp_rmem", "1G"),
        ("tcp_wmem", "1G"),
        ("rto_init_ms", "60000"),
    ] {
        let mut o = stack(name, text).unwrap();
        o.rto_max_ms = 1000;
        assert!(o.conflict().is_some(), "{name}");
    }
}

#[test]
fn hostile_words() {
    let good = StackOpts::DEFAULT.to_words();
    assert_eq!(StackOpts::from_words(&good).unwrap(), StackOpts::DEFAULT);
    assert_eq!(
        StackOpts::from_words(&good[1..]).unwrap_err().problem,
        Problem::WordCount
    );
    let mut bad = good;
    bad[0] = 1000;
    let error = StackOpts::from_words(&bad).unwrap_err();
    assert_eq!(error.problem, Problem::NotPow2);
    assert!(
        error
            .to_string()
            .starts_with("FLYOVER_MAX_SOCKETS=1000: not a power of two")
    );
    bad[0] = u64::MAX;
    let error = StackOpts::from_words(&bad).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("FLYOVER_MAX_SOCKETS=18446744073709551615: ")
    );
}

#[test]
fn generated_text() {
    let help = docs::help::<ProcessOpts>();
    let entries = help.lines().filter(|l| l.starts_with("  --")).count();
    assert_eq!(entries, ProcessOpts::SPECS.len());
    assert!(
        help.contains("  --vnic auto|packet|xdp          kind of V-NIC [auto]\n"),
        "{help}"
    );
    assert!(help.contains("--[no-]inherit"));
    let markdown = docs::markdown();
    for spec in ProcessOpts::SPECS
        .iter()
        .chain(StackOpts::SPECS)
        .chain(DaemonOpts::SPECS)
    {
        assert!(
            markdown.contains(&format!("### `{}`", spec.env)),
            "{}",
            spec.env
        );
    }
    assert!(!markdown.contains("  \n") && !markdown.contains("\n\n\n"));
}

proptest! {
    /// Words from anywhere: either refused, or legal options that encode to the same words.
    #[test]
    fn any_words(hits in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u64>(), 0u64..1 << 22, (0u32..40).prop_map(|s| 1 << s)]), 0..5)) {
        let mut words = StackOpts::DEFAULT.to_words();
        for (at, value) in hits {
            words[at.index(StackOpts::WORDS)] = value;
        }
        if let Ok(options) = StackOpts::from_words(&words) {
            prop_assert_eq!(options.to_words(), words);
        }
    }

    /// Any text: refused, or a value whose own text is read back as itself.
    #[test]
    fn any_text(text in "\\PC{0,20}|[0-9]{1,12}[kKMG]?|(on|off|auto|latency|private|eth0,eth1)") {
        for (index, _) in StackOpts::SPECS.iter().enumerate() {
            let mut o = StackOpts::DEFAULT;
            if o.set_at(index, &text).is_ok() {
                let mut again = StackOpts::DEFAULT;
                again.set_at(index, &o.shown(index).to_string()).unwrap();
                prop_assert_eq!(o, again);
                prop_assert_eq!(StackOpts::from_words(&o.to_words()).unwrap(), o);
            }
        }
        for (index, _) in ProcessOpts::SPECS.iter().enumerate() {
            let mut o = ProcessOpts::DEFAULT;
            if o.set_at(index, &text).is_ok() {
                let mut again = ProcessOpts::DEFAULT;
                again.set_at(index, &o.shown(index).to_string()).unwrap();
                prop_assert_eq!(o, again);
            }
        }
    }
}

/// `docs/options.md` is this crate's output.
#[test]
fn the_documentation_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/options.md");
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == docs::markdown(),
        "docs/options.md is out of date: cargo run -p flyover-cli -- options --markdown > docs/options.md"
    );
}
