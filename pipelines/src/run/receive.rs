//! Starts what receives records that cannot be read again. It fills topics beside the run, as feeds do, and the pipeline
//! reads those.

use std::sync::Arc;

use millstream_connectors::broker::Broker;
use millstream_connectors::sources::intake::{Inlet, Receiver};
use millstream_engine::Result;

use crate::plan::Pipeline;
use crate::run::Options;

/// Starts the receivers of all sources that have one; they end when they are dropped. A run until idle has none: nobody
/// could say when their senders are done, so it works through what their topics hold. `is_ours` fails if another run has
/// taken over.
pub fn start(
    pipeline: &Pipeline,
    broker: &Arc<dyn Broker>,
    options: &Options,
    is_ours: &Arc<dyn Fn() -> Result<()> + Send + Sync>,
) -> Result<Vec<Receiver>> {
    let mut receivers = Vec::new();
    for source in &pipeline.sources {
        let (Some(receiver), Some((topic, _))) = (&source.source.receiver, &source.source.topic) else { continue };
        if options.until_idle {
            if !options.quiet {
                eprintln!("{}: receives nothing until idle; what `{topic}` holds is worked through", source.name);
            }
            continue;
        }
        let book = options.book.clone();
        let started = (receiver.start)(Inlet {
            id: own_topic(&pipeline.name, &source.name),
            topic: topic.clone(),
            broker: broker.clone(),
            clock: options.clock.clone(),
            is_ours: is_ours.clone(),
            fail: Arc::new(move |fault| book.abort(fault)),
        })?;
        if let Some(address) = started.address {
            if !options.quiet {
                eprintln!("{}: listening at {address}", source.name);
            }
            if let Some(listening) = &options.listening {
                // Whoever asked may have gone.
                let _ = listening.send((source.name.clone(), address));
            }
        }
        receivers.push(started);
    }
    Ok(receivers)
}

/// The topic of a source whose records are received, unless its configuration names another.
pub fn own_topic(pipeline: &str, source: &str) -> String {
    format!("{pipeline}.{source}")
}
