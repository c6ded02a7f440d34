//! Addresses that lead astray: another machine answers there, because it has the address too or because packets go wrong.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::node::Boot;

/// Who answers at an address in the place of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) vmid: u32,
    /// It has the address as its own, as with a duplicate one; otherwise it knows nothing of it.
    pub(crate) configured: bool,
}

/// All claims of a lab.
#[derive(Debug, Default)]
pub(crate) struct Claims(watch::Sender<Arc<HashMap<IpAddr, Claim>>>);

impl Claims {
    pub(crate) fn set(&self, address: IpAddr, claim: Option<Claim>) -> bool {
        self.0.send_if_modified(|claims| {
            let claims = Arc::make_mut(claims);
            let before = match claim {
                Some(claim) => claims.insert(address, claim),
                None => claims.remove(&address),
            };
            before != claim
        })
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<HashMap<IpAddr, Claim>>> {
        self.0.subscribe()
    }
}

/// Whether what is sent to one of a machine's addresses comes to it.
fn leads_here(claims: &HashMap<IpAddr, Claim>, address: IpAddr, vmid: u32) -> bool {
    claims.get(&address).is_none_or(|claim| claim.vmid == vmid)
}

/// Keeps something open on an address until `stop`, while what is sent there comes to this machine.
///
/// `open` is given a token that ends what it opened; the first time is over when this returns.
pub(crate) async fn hold<F, T>(boot: &Arc<Boot>, address: IpAddr, stop: CancellationToken, open: F)
where
    F: Fn(CancellationToken) -> T + Send + 'static,
    T: Future<Output = ()> + Send,
{
    let (boot, mut claims) = (Arc::clone(boot), boot.world.claims().subscribe());
    let vmid = boot.machine.vmid;
    let mut held = None;
    if leads_here(&claims.borrow_and_update().clone(), address, vmid) {
        let token = stop.child_token();
        open(token.clone()).await;
        held = Some(token);
    }
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = claims.changed() => if changed.is_err() { return },
            }
            let here = leads_here(&claims.borrow_and_update().clone(), address, vmid);
            match held.take() {
                Some(token) if !here => {
                    token.cancel();
                    boot.world.leave(address, &boot);
                }
                None if here => {
                    let token = stop.child_token();
                    open(token.clone()).await;
                    held = Some(token);
                }
                same => held = same,
            }
        }
    });
}

/// Waits until what is sent to an address comes to this machine, or no longer does.
pub(crate) async fn until(boot: &Boot, address: IpAddr, here: bool) {
    let mut claims = boot.world.claims().subscribe();
    // Without a sender the lab is gone.
    let _ = claims.wait_for(|claims| leads_here(claims, address, boot.machine.vmid) == here).await;
}

/// Makes the addresses that somebody gave this machine besides its own part of its network; true if that changed it.
pub(crate) fn configure(boot: &Boot) -> bool {
    let claims = boot.world.claims().subscribe().borrow().clone();
    let own = claims.iter().filter(|(_, claim)| claim.vmid == boot.machine.vmid && claim.configured);
    let mut given: Vec<IpAddr> = own.map(|(address, _)| *address).collect();
    given.sort();
    if boot.network().given == given {
        return false;
    }
    boot.change_network(|network| network.given = given);
    true
}
