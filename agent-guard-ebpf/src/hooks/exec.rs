//! Programs.

use agent_guard_common::{decide::Request, hook::Hook};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::lsm_result;
use crate::{
    emit::Enforcement,
    guard::{self, Ask, Caller, Telling},
    kernel::{Object, offset, read},
};

/// `int bprm_check_security(struct linux_binprm *bprm)`
///
/// Runs once for a script and once more for its interpreter: both must be allowed.
#[lsm(hook = "bprm_check_security")]
fn bprm_check(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(1);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::BprmCheck, Enforcement::Refuse) else { return 0 };
    let bprm: u64 = ctx.arg(0);
    let object = Object::of_file(read(bprm, offset!(bprm_file)).unwrap_or(0));
    lsm_result(guard::file(caller, &object, Ask::open(Request::Exec, Telling::AfterEarly)))
}
