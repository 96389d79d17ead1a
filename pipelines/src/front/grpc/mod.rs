//! Requests over gRPC: `inference.GRPCInferenceService` of the Open Inference Protocol.
//!
//! Its few messages are declared by hand, and a call of one message and one answer is a request of HTTP/2 with a prefix and
//! trailers ([`wire`]); so nothing is generated when this is built, and there is one server for all that listens.

mod messages;
mod wire;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response, StatusCode};
use millstream_connectors::formats::Cell;
use millstream_connectors::http::{Body, Limits, Refusal, Serve};
use millstream_engine::publish::Outcome;
use prost::Message;
use tokio::time::timeout;

use super::infer::{Answered, Asked, AtLeast, Output, Parameters, bad};
use super::tensors::{Rows, Shape, Tensor, TensorParameters, Values, from_binary, unsigned};
use super::{Endpoint, Shared};
use crate::run::reply::Datum;
use messages::{
    Column, Contents, Flag, InferRequest, InferResponse, Input, ModelMetadata, Named, Nothing, Parameter, Said,
    ServerMetadata,
};

/// The service's path.
const SERVICE: &str = "/inference.GRPCInferenceService/";

/// The service.
pub(super) struct Front {
    pub(super) limits: Limits,
    pub(super) shared: Arc<Shared>,
}

impl Serve for Front {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.route(request).await.unwrap_or_else(|refusal| wire::refuse(&refusal))
    }
}

impl Front {
    async fn route(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        self.limits.admit(&request)?;
        let is_grpc = |kind: &hyper::header::HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
        if request.method() != Method::POST || !request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only gRPC is spoken here"));
        }
        let patience = wire::patience(request.headers())?;
        let patience = patience.map_or(self.limits.patience, |said| said.min(self.limits.patience));
        let (head, body) = request.into_parts();
        let method = head.uri.path().strip_prefix(SERVICE).unwrap_or_default();
        let known = |is: bool| Ok(wire::answer(&Flag { is }));
        match method {
            "ModelInfer" => self.infer(body, patience).await,
            "ServerLive" => {
                self.read::<Nothing>(body, patience).await?;
                known(true)
            }
            "ServerReady" => {
                self.read::<Nothing>(body, patience).await?;
                known(self.shared.is_ready())
            }
            "ServerMetadata" => {
                self.read::<Nothing>(body, patience).await?;
                let version = env!("CARGO_PKG_VERSION").to_owned();
                Ok(wire::answer(&ServerMetadata { name: "millstream".to_owned(), version, extensions: vec![] }))
            }
            "ModelReady" => {
                let named = self.read::<Named>(body, patience).await?;
                let endpoint = self.endpoint(&named.name, &named.version)?;
                known(endpoint.is_ready(version(&named.version)))
            }
            "ModelMetadata" => {
                let named = self.read::<Named>(body, patience).await?;
                Ok(wire::answer(&about(self.endpoint(&named.name, &named.version)?)))
            }
            _ => Err(Refusal::new(
                StatusCode::NOT_IMPLEMENTED,
                format!("there is nothing here; call {SERVICE}ModelInfer"),
            )),
        }
    }

    fn endpoint(&self, name: &str, version: &str) -> Result<&Endpoint, Refusal> {
        let endpoint = self.shared.endpoint(name)?;
        self::version(version).map_or(Ok(endpoint), |version| endpoint.version(version).map(|_| endpoint))
    }

    /// A message that names a thing at most.
    async fn read<M: Message + Default>(&self, body: Incoming, patience: Duration) -> Result<M, Refusal> {
        let most = self.limits.body_bytes_max.min(4096);
        let (message, ()) = timeout(patience, wire::read(body, most, |_| Ok(()))).await.map_err(slow)??;
        wire::decode(message)
    }

    async fn infer(&self, body: Incoming, patience: Duration) -> Result<Response<Body>, Refusal> {
        // Who is asked is told by the message; before it is read, whoever is refused must not take the time of those who are
        // answered, and there must be room for it with one of them.
        let mut open = self.shared.endpoints.iter().map(Endpoint::is_open);
        let first = open.next().unwrap_or(Ok(()));
        if let Err(refusal) = first
            && open.all(|open| open.is_err())
        {
            return Err(refusal);
        }
        let room = |bytes| self.shared.endpoints.iter().find_map(|endpoint| endpoint.room(bytes).ok());
        let room =
            |bytes| room(bytes).ok_or_else(|| Refusal::later("too much waits to be kept")).map(|room| (room, bytes));
        let read = wire::read(body, self.limits.body_bytes_max, room);
        let (message, (room, bytes)) = timeout(patience, read).await.map_err(slow)??;
        let asked: InferRequest = wire::decode(message)?;
        let endpoint = self.endpoint(&asked.model_name, &asked.model_version)?;
        let answered = async {
            endpoint.is_open()?;
            // From now on it takes room with those whom it asks.
            drop(room);
            let room = endpoint.room(bytes)?;
            let inputs = inputs(&asked, endpoint)?;
            let rows = Rows::of(tensors(&inputs, &asked.raw_input_contents)?, &endpoint.columns, b"").map_err(bad)?;
            let parameters = parameters(&asked.parameters)?;
            let question = Asked { rows, parameters, version: version(&asked.model_version) };
            let (outcomes, seconds) = endpoint.infer(&question, (room, bytes), patience).await?;
            let response = response(endpoint, &asked, &question.parameters, &outcomes)?;
            Ok::<_, Refusal>((wire::answer(&response), seconds))
        };
        let answered = answered.await;
        let (_, code) = answered.as_ref().map_or_else(|refusal| wire::code(refusal.status()), |_| wire::OK);
        self.shared.count("grpc", endpoint, code, answered.as_ref().ok().map(|(_, seconds)| *seconds));
        answered.map(|(response, _)| response)
    }
}

/// The version that a message asks for; a field that is left out is empty.
fn version(said: &str) -> Option<&str> {
    Some(said).filter(|said| !said.is_empty())
}

fn slow(_: tokio::time::error::Elapsed) -> Refusal {
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "the message took too long to arrive")
}

fn about(endpoint: &Endpoint) -> ModelMetadata {
    let columns = |of: Vec<(String, &'static str)>| {
        of.into_iter().map(|(name, kind)| Column { name, datatype: kind.to_owned(), shape: vec![-1] }).collect()
    };
    let about = endpoint.describe();
    ModelMetadata {
        name: endpoint.name.clone(),
        versions: about.versions,
        platform: "millstream".to_owned(),
        inputs: columns(about.inputs),
        outputs: columns(about.outputs),
    }
}

fn inputs(asked: &InferRequest, endpoint: &Endpoint) -> Result<Vec<Input>, Refusal> {
    let most = endpoint.columns.schema.fields().len();
    if asked.inputs.len() > most {
        return Err(bad(format!("there are {} inputs, and {most} columns", asked.inputs.len())));
    }
    asked.inputs.iter().map(|input| wire::decode(input.clone())).collect()
}

/// The inputs as tensors, with their contents or those that are raw.
fn tensors<'a>(inputs: &'a [Input], raw: &'a [Bytes]) -> Result<Vec<Tensor<'a>>, Refusal> {
    if !raw.is_empty() && raw.len() != inputs.len() {
        return Err(bad(format!("there are {} inputs, and raw contents of {}", inputs.len(), raw.len())));
    }
    let tensor = |(at, input): (usize, &'a Input)| {
        let data = match (raw.get(at), &input.contents) {
            (Some(_), Some(_)) => Err("its contents are there twice".to_owned()),
            (Some(raw), None) => from_binary(&input.datatype, raw),
            (None, Some(contents)) => typed(&input.datatype, contents),
            (None, None) => Ok(Values::default()),
        };
        // A negative length is none that any tensor has.
        let shape: Vec<u64> = input.shape.iter().map(|length| u64::try_from(*length).unwrap_or(u64::MAX)).collect();
        Ok(Tensor {
            name: Cow::Borrowed(&input.name),
            shape: Shape::of(&shape),
            datatype: Cow::Borrowed(&input.datatype),
            data: data.map_err(|why| bad(format!("input `{}`: {why}", input.name)))?,
            parameters: TensorParameters::default(),
        })
    };
    inputs.iter().enumerate().map(tensor).collect()
}

/// The contents of a datatype.
fn typed<'a>(datatype: &str, contents: &'a Contents) -> Result<Values<'a>, String> {
    Ok(match datatype {
        "BOOL" => contents.bools.iter().map(|value| Cell::Bool(*value)).collect(),
        "INT8" | "INT16" | "INT32" => contents.ints.iter().map(|value| Cell::Int((*value).into())).collect(),
        "INT64" => contents.longs.iter().map(|value| Cell::Int(*value)).collect(),
        "UINT8" | "UINT16" | "UINT32" => contents.unsigned.iter().map(|value| Cell::Int((*value).into())).collect(),
        "UINT64" => contents.unsigned_longs.iter().map(|value| unsigned(*value)).collect(),
        "FP32" => contents.floats.iter().map(|value| Cell::float((*value).into())).collect(),
        "FP64" => contents.doubles.iter().map(|value| Cell::float(*value)).collect(),
        _ => {
            let text = |bytes: &'a Bytes| std::str::from_utf8(bytes).map(|text| Cell::Text(Cow::Borrowed(text)));
            contents.texts.iter().map(text).collect::<Result<_, _>>().map_err(|_| "a text is not UTF-8")?
        }
    })
}

fn parameters(said: &HashMap<String, Parameter>) -> Result<Parameters, Refusal> {
    let find = |name: &str| said.get(name).and_then(|parameter| parameter.said.as_ref());
    let whole = |said: &Said| match said {
        Said::Int(number) => u64::try_from(*number).ok(),
        Said::UInt(number) => Some(*number),
        _ => None,
    };
    let microseconds = |said| whole(said).ok_or_else(|| bad("`timeout` is a number of microseconds"));
    let at_least = |said: &Said| match said {
        Said::Text(text) => AtLeast::parse(text),
        number => whole(number).map(AtLeast::Revision).ok_or_else(|| "`at_least` is a revision, or offsets".to_owned()),
    };
    Ok(Parameters {
        timeout: find("timeout").map(microseconds).transpose()?,
        at_least: find("at_least").map(at_least).transpose().map_err(bad)?,
        features: match find("features") {
            None => false,
            Some(Said::Bool(features)) => *features,
            Some(_) => return Err(bad("`features` is true or false")),
        },
    })
}

fn response(
    endpoint: &Endpoint,
    asked: &InferRequest,
    parameters: &Parameters,
    outcomes: &[Outcome],
) -> Result<InferResponse, Refusal> {
    let answered =
        Answered::of(outcomes).map_err(|errors| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, errors.error))?;
    let found = answered.outputs(&asked.outputs)?;
    let (mut outputs, mut raw) = (Vec::new(), Vec::new());
    for output in &found {
        let (name, datatype) = (output.name().to_owned(), output.datatype().to_owned());
        outputs.push(Column { name, datatype, shape: vec![answered.rows.len() as i64] });
        raw.push(bytes(output)?);
    }
    let oldest = answered.oldest;
    let parameters = [
        ("model", Some(Said::Text(oldest.model.clone()))),
        ("revision", Some(Said::Int(oldest.revision as i64))),
        ("learned_through", Some(Said::Text(answered.learned_through()))),
        ("learned_through_time", answered.learned_through_time().map(Said::Text)),
        ("staleness_seconds", answered.staleness_seconds().map(Said::Float)),
        ("features", answered.features(parameters, &endpoint.answers).map(Said::Text)),
    ];
    let parameters = parameters.into_iter().filter(|(_, said)| said.is_some());
    let parameters: BTreeMap<String, Parameter> =
        parameters.map(|(name, said)| (name.to_owned(), Parameter { said })).collect();
    Ok(InferResponse {
        model_name: endpoint.name.clone(),
        model_version: oldest.revision.to_string(),
        id: asked.id.clone(),
        parameters,
        outputs,
        raw_output_contents: raw,
    })
}

fn put(text: &str, bytes: &mut Vec<u8>) {
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.bytes());
}

/// A column as raw contents: little-endian values, one after the other; texts with their length in four bytes before them. A
/// float that is missing is not a number; nothing else can be missing there.
fn bytes(output: &Output<'_>) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    for (column, row) in output.values() {
        match column.data_type() {
            DataType::Float64 if column.is_null(row) => bytes.extend(f64::NAN.to_le_bytes()),
            _ if column.is_null(row) => {
                let message =
                    format!("`{}` has missing values, which cannot be said here; ask over HTTP", output.name());
                return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message));
            }
            DataType::Float64 => bytes.extend(column.as_primitive::<Float64Type>().value(row).to_le_bytes()),
            DataType::Int64 => bytes.extend(column.as_primitive::<Int64Type>().value(row).to_le_bytes()),
            DataType::Boolean => bytes.push(column.as_boolean().value(row).into()),
            DataType::Utf8 => put(column.as_string::<i32>().value(row), &mut bytes),
            // A tensor has no objects.
            DataType::Map(..) => put(&Datum(column, row).text(), &mut bytes),
            other => {
                let message = format!("answers have no columns of type {other}");
                return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message));
            }
        }
    }
    Ok(bytes)
}
