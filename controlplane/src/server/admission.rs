//! Lets a call in when one of the caller's roles may make it, and counts every call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use levee_api::config::Access;
use levee_api::grpc::socket::Peer;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::calls::CallCounters;
use super::link::Handle;
use super::roles::{Caller, needed};

/// Puts [`Admission`] around the services.
#[derive(Debug, Clone)]
pub(super) struct AdmissionLayer {
    pub(super) handle: Handle,
    pub(super) counters: Arc<CallCounters>,
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, handle: self.handle.clone(), counters: Arc::clone(&self.counters) }
    }
}

/// Looks at who calls what, before anything of the call is read.
#[derive(Debug, Clone)]
pub(super) struct Admission<S> {
    inner: S,
    handle: Handle,
    counters: Arc<CallCounters>,
}

impl<S> Service<Request<Body>> for Admission<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = request.uri().path().to_owned();
        let counters = Arc::clone(&self.counters);
        match admitted(&method, request.extensions().get::<Peer>(), &self.handle.config().controlplane.access) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let answer = answer.await?;
                    // A call that succeeds says so in its trailers, which come later; one that fails at once says it here.
                    let code =
                        Status::from_header_map(answer.headers()).map_or(tonic::Code::Ok, |status| status.code());
                    counters.count(&method, code);
                    Ok(answer)
                })
            }
            Err(status) => {
                counters.count(&method, status.code());
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}

fn admitted(method: &str, peer: Option<&Peer>, access: &Access) -> Result<Caller, Status> {
    let peer = peer.ok_or_else(|| Status::unauthenticated("it is not known who calls"))?;
    let needs = needed(method).ok_or_else(|| Status::unimplemented(format!("there is no method {method}")))?;
    let caller = Caller::at(peer, access);
    match caller {
        Some(caller) if caller.has(needs) => Ok(caller),
        caller => {
            let who = caller.map_or_else(
                || format!("uid {} has no role", peer.uid),
                |caller| format!("{} has the role {}", caller.name, caller.role),
            );
            tracing::warn!(method, "refused: {needs} is needed, {who}");
            Err(Status::permission_denied(format!(
                "{method} needs {needs}, and {who}: add the user to `{}` in [controlplane.access]",
                needs.key()
            )))
        }
    }
}
