//! ONNX files: the network as a graph that runs without this crate.
//!
//! The format is a protocol buffer of few messages, written here by hand: see onnx.proto of the ONNX project for the
//! numbers of the fields.

use std::path::Path;

use burn::tensor::TensorData;

use swav_files::protobuf::Message;

use super::names::second;
use super::{Tensors, WeightsError, export, malformed};
use crate::conv::ConvSpec;
use crate::network::{Network, NetworkConfig};

/// Of the operators that are used, none has changed its meaning since.
const OPSET: u64 = 13;
const IR_VERSION: u64 = 8;
/// What a protocol buffer can hold.
const LARGEST: usize = i32::MAX as usize;
const EPSILON: f32 = 1e-5;

/// Writes backbone and head, as they are in evaluation, as an ONNX graph (opset 13).
///
/// Input is `image`, `[N, 3, H, W]` in f32, with any N, H and W, normalised as `notes` had better say; they become the
/// file's metadata. Outputs are `features`, `[N, dim]`, what the backbone gives, and `embeddings`, `[N, dim]` of unit
/// length, what the head makes of them. Prototypes are left out: a score is the product with one.
///
/// # Errors
/// If the file cannot be written, or would be larger than the 2 GiB that the format can hold.
pub fn save_onnx(
    network: &Network,
    path: &Path,
    notes: &[(&str, String)],
) -> Result<(), WeightsError> {
    let mut graph = Graph::new(export(network));
    let features = graph.backbone(network);
    graph.node("Identity", &[&features], "features", &[]);
    let embeddings = graph.head(network.config());
    graph.node(
        "LpNormalization",
        &[&embeddings],
        "embeddings",
        &[("axis", Attribute::Int(1)), ("p", Attribute::Int(2))],
    );
    let (dim, of_head) = (
        network.config().backbone.dim(),
        network.config().embedding(),
    );
    graph.value(INPUT, "image", &["N", "3", "H", "W"]);
    graph.value(OUTPUT, "features", &["N", &dim.to_string()]);
    graph.value(OUTPUT, "embeddings", &["N", &of_head.to_string()]);

    let mut model = Message::default();
    model.number(1, IR_VERSION);
    model.text(2, "swav");
    model.text(3, env!("CARGO_PKG_VERSION"));
    model.message(7, graph.message);
    let mut opset = Message::default();
    opset.text(1, "");
    opset.number(2, OPSET);
    model.message(8, opset);
    for (key, value) in notes {
        let mut note = Message::default();
        note.text(1, key);
        note.text(2, value);
        model.message(14, note);
    }
    if model.as_bytes().len() > LARGEST {
        let size = model.as_bytes().len() >> 20;
        return Err(malformed(
            path,
            format!(
                "the network takes {size} MiB, an ONNX file at most 2047; export SafeTensors instead"
            ),
        ));
    }
    swav_files::write(path, model.as_bytes()).map_err(|source| WeightsError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Fields of a graph.
const NODE: u32 = 1;
const INITIALIZER: u32 = 5;
const INPUT: u32 = 11;
const OUTPUT: u32 = 12;

/// A graph as it grows, with the tensors that it has yet to take.
struct Graph {
    message: Message,
    tensors: Tensors,
    nodes: usize,
}

enum Attribute {
    Float(f32),
    Int(i64),
    Ints(Vec<usize>),
}

impl Graph {
    fn new(tensors: Tensors) -> Self {
        let mut message = Message::default();
        message.text(2, "swav");
        Self {
            message,
            tensors,
            nodes: 0,
        }
    }

    /// From the image to the pooled features.
    fn backbone(&mut self, network: &Network) -> String {
        let layout = network.config().backbone.layout();
        let mut x = self.conv(&layout.stem, "image", "conv1");
        x = self.norm(&x, "bn1");
        x = self.then("Relu", &x);
        if layout.pool {
            let pool = [
                ("kernel_shape", Attribute::Ints(vec![3, 3])),
                ("strides", Attribute::Ints(vec![2, 2])),
                ("pads", Attribute::Ints(vec![1; 4])),
            ];
            x = self.unnamed("MaxPool", &[&x], &pool);
        }
        for (stage, blocks) in layout.stages.iter().enumerate() {
            for (number, block) in blocks.iter().enumerate() {
                let name = format!("layer{}.{number}", stage + 1);
                let shortcut = match &block.downsample {
                    Some(conv) => {
                        let y = self.conv(conv, &x, &format!("{name}.downsample.0"));
                        self.norm(&y, &format!("{name}.downsample.1"))
                    }
                    None => x.clone(),
                };
                for (i, conv) in block.convs.iter().enumerate() {
                    if i > 0 {
                        x = self.then("Relu", &x);
                    }
                    x = self.conv(conv, &x, &format!("{name}.conv{}", i + 1));
                    x = self.norm(&x, &format!("{name}.bn{}", i + 1));
                }
                x = self.unnamed("Add", &[&x, &shortcut], &[]);
                x = self.then("Relu", &x);
            }
        }
        x = self.then("GlobalAveragePool", &x);
        self.unnamed("Flatten", &[&x], &[("axis", Attribute::Int(1))])
    }

    /// From the features to what is yet to be brought to unit length.
    fn head(&mut self, config: &NetworkConfig) -> String {
        if config.dim == 0 {
            return "features".to_owned();
        }
        if config.hidden == 0 {
            return self.linear("features", "projection_head");
        }
        let mut x = self.linear("features", "projection_head.0");
        if config.head_norm {
            x = self.norm(&x, "projection_head.1");
        }
        x = self.then("Relu", &x);
        self.linear(&x, &format!("projection_head.{}", second(config)))
    }

    fn conv(&mut self, spec: &ConvSpec, x: &str, name: &str) -> String {
        let weight = self.take(&format!("{name}.weight"));
        let attributes = [
            ("kernel_shape", Attribute::Ints(vec![spec.kernel; 2])),
            ("strides", Attribute::Ints(vec![spec.stride; 2])),
            ("pads", Attribute::Ints(vec![spec.kernel / 2; 4])),
            ("group", Attribute::Int(spec.groups as i64)),
        ];
        self.unnamed("Conv", &[x, &weight], &attributes)
    }

    fn norm(&mut self, x: &str, name: &str) -> String {
        let [scale, bias, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
            .map(|part| self.take(&format!("{name}.{part}")));
        let epsilon = [("epsilon", Attribute::Float(EPSILON))];
        self.unnamed(
            "BatchNormalization",
            &[x, &scale, &bias, &mean, &variance],
            &epsilon,
        )
    }

    fn linear(&mut self, x: &str, name: &str) -> String {
        let [weight, bias] = ["weight", "bias"].map(|part| self.take(&format!("{name}.{part}")));
        let turned = [("transB", Attribute::Int(1))];
        self.unnamed("Gemm", &[x, &weight, &bias], &turned)
    }

    fn then(&mut self, operator: &str, x: &str) -> String {
        self.unnamed(operator, &[x], &[])
    }

    /// A node whose output has no name of its own.
    fn unnamed(
        &mut self,
        operator: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> String {
        let output = format!("{}", self.nodes);
        self.node(operator, inputs, &output, attributes);
        output
    }

    fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[(&str, Attribute)],
    ) {
        let mut node = Message::default();
        inputs.iter().for_each(|input| node.text(1, input));
        node.text(2, output);
        node.text(3, &format!("{operator}_{}", self.nodes));
        node.text(4, operator);
        for (name, value) in attributes {
            let mut attribute = Message::default();
            attribute.text(1, name);
            let kind = match value {
                Attribute::Float(value) => {
                    attribute.float(2, *value);
                    1
                }
                Attribute::Int(value) => {
                    attribute.number(3, value.cast_unsigned());
                    2
                }
                Attribute::Ints(values) => {
                    values.iter().for_each(|&v| attribute.number(8, v as u64));
                    7
                }
            };
            attribute.number(20, kind);
            node.message(5, attribute);
        }
        self.message.message(NODE, node);
        self.nodes += 1;
    }

    /// Makes a tensor of the network one of the graph.
    fn take(&mut self, name: &str) -> String {
        let data = self.tensors.remove(name);
        let data = data.unwrap_or_else(|| unreachable!("a network has `{name}`"));
        self.message.message(INITIALIZER, tensor(name, &data));
        name.to_owned()
    }

    /// An input or output: dimensions that are no numbers are free.
    fn value(&mut self, field: u32, name: &str, dims: &[&str]) {
        let mut shape = Message::default();
        for dim in dims {
            let mut dimension = Message::default();
            match dim.parse() {
                Ok(size) => dimension.number(1, size),
                Err(_) => dimension.text(2, dim),
            }
            shape.message(1, dimension);
        }
        let mut of_tensor = Message::default();
        of_tensor.number(1, FLOAT);
        of_tensor.message(2, shape);
        let mut kind = Message::default();
        kind.message(1, of_tensor);
        let mut value = Message::default();
        value.text(1, name);
        value.message(2, kind);
        self.message.message(field, value);
    }
}

/// The number of the type f32.
const FLOAT: u64 = 1;

fn tensor(name: &str, data: &TensorData) -> Message {
    let mut tensor = Message::default();
    for &size in data.shape().as_slice() {
        tensor.number(1, size as u64);
    }
    tensor.number(2, FLOAT);
    tensor.text(8, name);
    tensor.bytes(9, data.as_bytes());
    tensor
}
