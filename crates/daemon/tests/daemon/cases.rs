//! The cases.

mod attach;
mod filters;
mod lies;
mod life;

/// A case: its name and what it does.
pub type Case = (&'static str, fn());

/// All of them.
pub const ALL: &[Case] = &[
    (
        "attach::one_stack_per_user_and_name",
        attach::one_stack_per_user_and_name,
    ),
    (
        "attach::the_memory_is_sealed_and_ready",
        attach::the_memory_is_sealed_and_ready,
    ),
    ("attach::xdp_when_asked", attach::xdp_when_asked),
    (
        "attach::an_unprivileged_user_gets_an_own_keeper",
        attach::an_unprivileged_user_gets_an_own_keeper,
    ),
    (
        "attach::versions_and_layouts_must_agree",
        attach::versions_and_layouts_must_agree,
    ),
    ("attach::quotas", attach::quotas),
    ("attach::reports", attach::reports),
    ("filters::the_proof_counts", filters::the_proof_counts),
    (
        "filters::stacks_keep_to_their_own",
        filters::stacks_keep_to_their_own,
    ),
    (
        "filters::addresses_are_followed",
        filters::addresses_are_followed,
    ),
    (
        "lies::nonsense_ends_only_its_own_session",
        lies::nonsense_ends_only_its_own_session,
    ),
    ("lies::floods_stall_nobody", lies::floods_stall_nobody),
    ("lies::clients_that_vanish", lies::clients_that_vanish),
    (
        "life::a_killed_process_is_noticed",
        life::a_killed_process_is_noticed,
    ),
    (
        "life::a_killed_keeper_is_replaced",
        life::a_killed_keeper_is_replaced,
    ),
    (
        "life::v_nics_follow_the_interfaces",
        life::v_nics_follow_the_interfaces,
    ),
    (
        "life::an_idle_stack_costs_nothing",
        life::an_idle_stack_costs_nothing,
    ),
    (
        "life::a_killed_daemon_leaves_the_interfaces_clean",
        life::a_killed_daemon_leaves_the_interfaces_clean,
    ),
    ("life::sigterm_ends_in_order", life::sigterm_ends_in_order),
    ("life::one_daemon_per_socket", life::one_daemon_per_socket),
];
