//! Calls that lead out by a capability and that no other hook decides; and those that the kernel refuses
//! for want of it before it asks a hook, which are told of.

use agent_guard_common::{
    decide::Reason,
    event::Operation,
    hook::Hook,
    privileged::{NAMESPACES, PrivilegedCall, TIME_NAMESPACE, UNHOOKED, privileged_call},
    table::Counter,
};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_task_pt_regs,
    macros::{fexit, lsm},
    programs::{FExitContext, LsmContext},
};

use super::{NOT_PERMITTED, operation_result};
use crate::{
    emit::Enforcement,
    guard::{self, Caller, Tell, Verdict},
    kernel::{has, offset, read, read_user, system_call},
    maps, scope,
};

/// `int capable(const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts)`
///
/// Asked about capabilities that the task has. In a user namespace of its own, which another operation is,
/// an agent does what the kernel lets it.
#[lsm(hook = "capable")]
fn capable(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(4);
    if earlier != 0 {
        return earlier;
    }
    let capability: u32 = ctx.arg(2);
    // Asked on every road through the kernel, of everybody: before anything else is looked at.
    if UNHOOKED & 1 << (capability & 63) == 0 {
        return 0;
    }
    let Some(caller) = Caller::current(Hook::Capable, Enforcement::Refuse) else { return 0 };
    // What was told of an earlier call, and was not asked about since, is not told of this one.
    scope::take_told_refusal();
    let (operation, fault) = match privileged(&ctx, capability) {
        Ok(None) => return 0,
        Ok(Some(operation)) => (operation, Ok(0)),
        // What it would have been is not known.
        Err(reason) => (Operation::Host, Err(reason)),
    };
    let verdict = guard::operate(caller, operation, fault, Tell::All);
    let options: u32 = ctx.arg(3);
    if verdict == Verdict::Stop && options & NOAUDIT == 0 && has(Hook::CapabilityCheck) {
        scope::tell_of_refusal();
    }
    operation_result(verdict)
}

/// What is decided where the current task uses `capability`.
#[inline(always)]
fn privileged(ctx: &LsmContext, capability: u32) -> Result<Option<Operation>, Reason> {
    let Some(call) = SystemCall::current()?.taking(capability) else { return Ok(None) };
    let namespace: u64 = read(ctx.as_ptr() as u64, 8)?;
    let level: u32 = read(namespace, offset!(user_namespace_level))?;
    Ok((!call.has_hook && level == 0).then_some(call.operation))
}

/// `CAP_OPT_NOAUDIT`: the kernel looks around, and goes on without the capability.
const NOAUDIT: u32 = 2;

/// `int security_capable(const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts)`
///
/// Nothing is decided here: the call fails all the same, and what goes wrong costs no more than its event.
#[fexit(function = "security_capable")]
fn capability_check(ctx: FExitContext) -> i32 {
    let (capability, options, returned): (u32, u32, i32) = (ctx.arg(2), ctx.arg(3), ctx.arg(4));
    if returned != NOT_PERMITTED || options & NOAUDIT != 0 {
        return 0;
    }
    let Some(caller) = Caller::current(Hook::CapabilityCheck, Enforcement::Kernel) else {
        return 0;
    };
    if scope::take_told_refusal() {
        return 0;
    }
    match refused(capability) {
        Ok(None) => {}
        // A policy that allows the operation has left the capability, and something else took it away.
        Ok(Some(operation)) => drop(guard::operate(caller, operation, Ok(0), Tell::Denials)),
        Err(_) => maps::count(caller.agent, caller.hook, Counter::Failed),
    }
    0
}

/// What the current task's call fails to do without `capability`.
#[inline(always)]
fn refused(capability: u32) -> Result<Option<Operation>, Reason> {
    let call = SystemCall::current()?;
    match call.taking(capability) {
        Some(privileged) if call.makes_namespace()? => Ok(Some(privileged.operation)),
        _ => Ok(None),
    }
}

/// The system call that the current task is in.
struct SystemCall {
    /// Its `struct pt_regs`
    regs: u64,
    /// Whether the number is one of the 32-bit table
    compat: bool,
    number: u32,
}

impl SystemCall {
    #[inline(always)]
    fn current() -> Result<Self, Reason> {
        // SAFETY: the task is the current one, which the verifier sees.
        let regs = unsafe { bpf_task_pt_regs(scope::current()) } as u64;
        let (compat, number) = system_call(regs)?;
        Ok(Self { regs, compat, number })
    }

    /// What the call is, where it takes `capability`.
    #[inline(always)]
    fn taking(&self, capability: u32) -> Option<PrivilegedCall> {
        privileged_call(self.compat, self.number).filter(|call| call.capability == capability)
    }

    /// Whether clone(2) or clone3(2) is for a namespace: at the limit of processes, any asks for the same
    /// capability. Other calls are what their number says.
    ///
    /// Nothing is allowed by this: the caller may have written other arguments by now.
    #[inline(always)]
    fn makes_namespace(&self) -> Result<bool, Reason> {
        // Of a 32-bit call's argument the kernel takes the lower half.
        let first = || match self.compat {
            true => read::<u32>(self.regs, offset!(regs_bx)).map(u64::from),
            false => read(self.regs, offset!(regs_di)),
        };
        Ok(match (self.compat, self.number) {
            (false, 56) | (true, 120) => first()? & NAMESPACES != 0,
            // The first word of `struct clone_args`
            (_, 435) => first().and_then(read_user)? & (NAMESPACES | TIME_NAMESPACE) != 0,
            _ => true,
        })
    }
}
