//! The kernel programs of agent-guard.
//!
//! A hook's entry is short: it passes an earlier refusal on, finds the agent ([`scope`]), says what is
//! asked of which object, and hands over to [`guard`], the one path on which everything is decided,
//! counted and emitted.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod asked;
mod cache;
mod directories;
mod emit;
mod guard;
mod hooks;
mod kernel;
mod local;
mod maps;
mod nobodys;
mod process;
mod scope;
mod terminal;
mod walk;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
