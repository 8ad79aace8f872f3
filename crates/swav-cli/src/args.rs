//! The command line: what may be typed, with help that one can work from.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use swav_data::{DEFAULT_MAX_PIXELS, Format, ShardSize};
use swav_eval::Share;
use swav_train::Span;
use swav_train::precision::Precision;

use crate::device::Choice;

/// Self-supervised pre-training of image backbones, without Python.
///
/// Point it at a folder of unlabelled images; it learns features from them on an NVIDIA GPU, on any
/// GPU or on the CPU, and hands them on.
#[derive(Debug, Parser)]
#[command(
    name = "swav",
    version,
    after_help = "Start here:\n  \
        swav quickstart                      see it work on the images that ship inside\n  \
        swav plan --data photos/             what would run on your images, and why\n  \
        swav train --data photos/            train on them\n\n\
        Results go to stdout, all else to stderr. Exit codes: 0 done, 1 stdout cannot be\n\
        written, 2 wrong usage or configuration, 3 data, 4 device, 5 training stopped itself, 7 disk full,\n\
        70 a defect of swav, 130 interrupted with the state saved."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train on the images that ship inside and show what was learned.
    Quickstart(Quickstart),
    /// Train a backbone on a folder of images.
    #[command(after_help = TRAIN_EXAMPLES)]
    Train(Train),
    /// Show what would run: derived settings, memory, time. Refuses what cannot work.
    Plan(PlanArgs),
    /// Measure the features of a run.
    #[command(subcommand)]
    Eval(Eval),
    /// Write the features of images to a file.
    Embed(Embed),
    /// Show a run on one page: curves, prototypes, a map of the images, their neighbours.
    #[command(after_help = REPORT_EXAMPLES)]
    Report(ReportArgs),
    /// Write the cluster of each image to a file.
    #[command(after_help = ASSIGN_HELP)]
    Assign(Assign),
    /// Write the weights of a run for other programs.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(Export),
    /// Look after a set of images: find what is wrong with it, pack it into tar shards.
    #[command(subcommand)]
    Data(Data),
    /// List the devices there are.
    Devices(Devices),
    /// Measure the program on random input: what `cargo xtask bench-…` runs.
    #[command(subcommand, hide = true)]
    Bench(Bench),
}

const TRAIN_EXAMPLES: &str = "Examples:\n  \
    swav train --data photos/\n  \
    swav train --config configs/cifar10-slim.toml --data train.tar --test test.tar\n  \
    swav train --data photos/ --set train.epochs=50 --set model.backbone=resnet50 --out runs/a\n  \
    swav train --resume --out runs/a";

/// Where a recipe comes from and what is changed in it.
#[derive(Debug, Default, Args)]
pub struct RecipeArgs {
    /// Recipe in TOML; without one everything is derived from the data.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Training images: a folder, tar shards, Parquet or WebDataset files, a list of paths, CIFAR or IDX
    /// files.
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Held-out images with the same classes, for the kNN accuracy shown while training.
    #[arg(long, value_name = "PATH")]
    pub test: Option<PathBuf>,
    /// Weights to begin with, as in model.init of a recipe: a checkpoint of PyTorch, SafeTensors or a run. Of the
    /// network, what is not set is theirs.
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Change one field of the recipe; may be given several times.
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE")]
    pub overrides: Vec<String>,
}

impl RecipeArgs {
    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.config.is_none()
            && self.data.is_none()
            && self.test.is_none()
            && self.init.is_none()
            && self.overrides.is_empty()
    }
}

/// What is looked at, and how.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A run directory, one checkpoint of a run, or weights: PyTorch's .pth or .pth.tar, SafeTensors, burnpack.
    pub run: PathBuf,
    #[command(flatten)]
    pub view: ViewArgs,
}

/// What is judged, and how it looks at images.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Run directories, single checkpoints (runs/a/checkpoints/* are all that a run has kept), or weights: PyTorch's
    /// .pth or .pth.tar, SafeTensors, burnpack.
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    #[command(flatten)]
    pub view: ViewArgs,
}

/// How images are looked at.
#[derive(Clone, Copy, Debug, Args)]
pub struct ViewArgs {
    /// Side of the centre crop that is seen of each image; by default that of the largest training crop, and of
    /// weights 224, or 32 with the stem for small images.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub size: Option<u32>,
    /// Share of the images that may be corrupt and are skipped, from 0 to 1; by default that of the run, which is 0.01 where
    /// its recipe says nothing.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub corrupt_budget: Option<f64>,
}

/// A number from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".to_string()),
    }
}

/// Where it runs.
#[derive(Clone, Copy, Debug, Args)]
pub struct DeviceArgs {
    /// auto (the best one there is), cpu, wgpu, wgpu:1, cuda or cuda:1.
    #[arg(long, value_name = "DEVICE", default_value_t = Choice::Auto)]
    pub device: Choice,
}

/// `swav train`
#[derive(Debug, Args)]
pub struct Train {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Run directory; by default runs/NAME after the recipe or the data.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// How often report.html is written while the run trains ("5 epochs", "500 steps"); then also at the end.
    #[arg(long, value_name = "DURATION", default_value_t = Span::Never)]
    pub report_every: Span,
    /// Continue the run in --out from its newest checkpoint; starts it if there is none yet.
    #[arg(long, requires = "out")]
    pub resume: bool,
    /// Plain lines instead of the dashboard.
    #[arg(long)]
    pub plain: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `swav plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print the whole plan as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `swav quickstart`
#[derive(Debug, Args)]
pub struct Quickstart {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Run directory; by default runs/quickstart, numbered where that is taken.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Change one field of the recipe; may be given several times.
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE")]
    pub overrides: Vec<String>,
    /// Plain lines instead of the dashboard.
    #[arg(long)]
    pub plain: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `swav eval …`
#[derive(Debug, Subcommand)]
pub enum Eval {
    /// Weighted k-nearest-neighbour accuracy of the frozen features.
    #[command(after_help = KNN_EXAMPLES)]
    Knn(Knn),
    /// Accuracy of a linear classifier on the frozen features.
    #[command(after_help = LINEAR_HELP)]
    Linear(Linear),
    /// Accuracy of the whole network, trained further on labels.
    #[command(after_help = FINETUNE_HELP)]
    Finetune(Finetune),
}

const KNN_EXAMPLES: &str = "Examples:\n  \
    swav eval knn runs/a\n  \
    swav eval knn runs/a/checkpoints/* --k 200 --temperature 0.1\n  \
    swav eval knn resnet50.pth --train train/ --test test/";

/// `swav eval knn`
#[derive(Debug, Args)]
pub struct Knn {
    #[command(flatten)]
    pub runs: RunsArgs,
    /// Labelled images that vote; by default the run's training images.
    #[arg(long, value_name = "PATH")]
    pub train: Option<PathBuf>,
    /// Labelled images that are judged; by default the run's test images.
    #[arg(long, value_name = "PATH")]
    pub test: Option<PathBuf>,
    /// Neighbours that vote.
    #[arg(long, value_delimiter = ',', default_values_t = [20, 200])]
    pub k: Vec<usize>,
    /// T of the weights exp(similarity/T).
    #[arg(long, value_delimiter = ',', default_values_t = [0.07, 0.1])]
    pub temperature: Vec<f64>,
    /// Judge the network as it was before training, for comparison.
    #[arg(long)]
    pub untrained: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

const LINEAR_HELP: &str = "The features are extracted once, from the whole image without augmentation, and the \
    classifier is trained on them: about a minute for CIFAR-10 on a CPU. The papers take other crops of the images in \
    each of the 100 epochs, as --augment on does, which costs a hundred passes of the network and gives a little more. With --out \
    the state is kept after each epoch, and --resume goes on from it with the same numbers; where several runs are judged, each \
    has a folder of its own in it.\n\nExamples:\n  \
    swav eval linear runs/a\n  \
    swav eval linear runs/a --labels 10% --out linear-10\n  \
    swav eval linear runs/a/checkpoints/*\n  \
    swav eval linear runs/a --augment on --out linear-a --resume\n  \
    swav eval linear runs/a --untrained";

/// `swav eval linear`
#[derive(Debug, Args)]
pub struct Linear {
    #[command(flatten)]
    pub runs: RunsArgs,
    /// Labelled images that the classifier learns from; by default the run's training images.
    #[arg(long, value_name = "PATH")]
    pub train: Option<PathBuf>,
    /// Labelled images that it is judged on; by default the run's test images.
    #[arg(long, value_name = "PATH")]
    pub test: Option<PathBuf>,
    /// Share of the labels to learn from, the same of each class.
    #[arg(long, value_name = "SHARE", default_value_t = Share::ALL)]
    pub labels: Share,
    /// Passes over the features.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub epochs: u32,
    /// Learning rate of the first epoch; it falls to 0 as a cosine.
    #[arg(long, default_value_t = 0.3)]
    pub lr: f64,
    /// Weight decay.
    #[arg(long, default_value_t = 1e-6)]
    pub weight_decay: f64,
    /// Features of a step.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: u32,
    /// Whether the network sees other random crops and mirror images in each epoch, or the whole image once.
    #[arg(long, value_enum, default_value_t = Switch::Off)]
    pub augment: Switch,
    /// Seed of the classifier, the order, the crops and the share of the labels.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Judge the network as it was before training, for comparison.
    #[arg(long)]
    pub untrained: bool,
    /// Directory for linear.json, confusion.csv, images.txt, the images that were learned from, and the state.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue the training in --out; starts it if there is none yet.
    #[arg(long, requires = "out")]
    pub resume: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `--augment`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It does.
    On,
    /// It does not.
    Off,
}

const EXPORT_EXAMPLES: &str = "Examples:\n  \
    swav export runs/a --to torchvision --out resnet50.safetensors\n  \
    swav export runs/a --to onnx --out resnet50.onnx\n\n\
    In Python:\n  \
    model = torchvision.models.resnet50()\n  \
    model.fc = torch.nn.Identity()\n  \
    model.load_state_dict(safetensors.torch.load_file(\"resnet50.safetensors\"))";

/// `swav export`
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    pub run: RunArgs,
    /// What is written.
    #[arg(long, value_enum)]
    pub to: ExportFormat,
    /// The file; an existing one is replaced.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// The formats that weights are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// The backbone as SafeTensors under torchvision's names.
    Torchvision,
    /// Backbone, head and prototypes as SafeTensors.
    Safetensors,
    /// Backbone and head as a graph, for any size of batch and image.
    Onnx,
    /// Everything in Burn's own format.
    Burnpack,
}

const FINETUNE_HELP: &str = "The whole network is trained behind a new classifier, on random crops and mirror images, by SGD with \
    momentum 0.9; both rates are divided by 5 after three fifths and after four fifths of the epochs. With --out the state \
    is kept after each epoch, and --resume goes on from it with the same numbers.\n\nExamples:\n  \
    swav eval finetune runs/a --labels 10% --out finetune-10\n  \
    swav eval finetune runs/a --labels 10% --out finetune-10 --resume\n  \
    swav eval finetune runs/a --labels 1% --untrained";

/// `swav eval finetune`
#[derive(Debug, Args)]
pub struct Finetune {
    #[command(flatten)]
    pub run: RunArgs,
    /// Labelled images that are learned from; by default the run's training images.
    #[arg(long, value_name = "PATH")]
    pub train: Option<PathBuf>,
    /// Labelled images that it is judged on; by default the run's test images.
    #[arg(long, value_name = "PATH")]
    pub test: Option<PathBuf>,
    /// Share of the labels to learn from, the same of each class.
    #[arg(long, value_name = "SHARE", default_value_t = Share::ALL)]
    pub labels: Share,
    /// Passes over the images.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub epochs: u32,
    /// First learning rate of the backbone; by default 0.01, or 0.02 for 3 % of the labels or less.
    #[arg(long)]
    pub lr: Option<f64>,
    /// First learning rate of the classifier; by default 0.2, or 5 for 3 % of the labels or less.
    #[arg(long)]
    pub classifier_lr: Option<f64>,
    /// Images of a step.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..=65_536))]
    pub batch_size: u32,
    /// Seed of the classifier, the order, the crops and the share of the labels.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Begin with the network as it was before training, for comparison.
    #[arg(long)]
    pub untrained: bool,
    /// Directory for finetune.json, confusion.csv, images.txt, the images that were learned from, and the state.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue the fine-tuning in --out; starts it if there is none yet.
    #[arg(long, requires = "out")]
    pub resume: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `swav embed`
#[derive(Debug, Args)]
pub struct Embed {
    #[command(flatten)]
    pub run: RunArgs,
    /// Images, in any form that training takes.
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// File to write: .npy or .safetensors, beside which FILE.csv names the image of each row, or .parquet
    /// with the columns path, label and features.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// What is written.
    #[arg(long, value_enum, default_value_t = LayerArg::Features)]
    pub layer: LayerArg,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

const ASSIGN_HELP: &str = "\
    A row for each image:\n  \
    path             the image\n  \
    cluster          the prototype that its embedding is most alike, from 0\n  \
    score            how much alike: the cosine of the two\n  \
    runner_up        the prototype that comes next\n  \
    runner_up_score  its score\n  \
    entropy          of softmax(scores/temperature), in nats: near 0 where one prototype stands out\n\n\
    Where a network has several heads of prototypes, all columns but the path come once for each head, with _0, _1\n\
    and so on behind their names.\n\n\
    Example:\n  \
    swav assign runs/a --data photos/ --out clusters.csv";

/// `swav assign`
#[derive(Debug, Args)]
pub struct Assign {
    #[command(flatten)]
    pub run: RunArgs,
    /// Images, in any form that training takes.
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// File to write: .csv or .parquet.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print how the images spread over the clusters as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `--layer`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LayerArg {
    /// The backbone's pooled output, for other tasks.
    Features,
    /// The unit vectors that prototypes are compared with.
    Embeddings,
}

const REPORT_EXAMPLES: &str = "Examples:\n  \
    swav report runs/photos\n  \
    swav report runs/photos --data held-out/ --images 10000 --out held-out.html";

/// `swav report`
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A run directory, or one checkpoint of a run.
    pub run: PathBuf,
    /// Page to write; by default report.html in the run directory.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Images to look at, in any form that training takes; by default the run's training images.
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// The most images that are looked at, spread evenly; 0 for curves and settings alone.
    #[arg(long, value_name = "N", default_value_t = swav_eval::report::IMAGES)]
    pub images: usize,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `swav data …`
#[derive(Debug, Subcommand)]
pub enum Data {
    /// Decode every image; list those that are corrupt, unsupported, duplicates or too small.
    #[command(after_help = SCAN_HELP)]
    Scan(Scan),
    /// Write images as tar shards, which give the same samples in the same order.
    #[command(after_help = PACK_HELP)]
    Pack(Pack),
}

const SCAN_HELP: &str = "\
    The table has three columns, with tabs between them: corrupt, unsupported, duplicate or small; the\n\
    file; and the reason, the first file with the same bytes, or WIDTHxHEIGHT.\n\n\
    Exit codes: 0 no file is corrupt (unsupported, duplicate and small images are listed, and are no\n\
    fault), 3 some are.\n\n\
    Examples:\n  \
    swav data scan photos/\n  \
    swav data scan photos/ --min-size 64 --out found.csv";

const PACK_HELP: &str = "\
    Nothing is decoded and nothing is lost: the files go in byte by byte; the pixels of CIFAR and IDX files\n\
    become PNGs. Each class is a folder in the shards. What is trained on them is what would be trained\n\
    on the images. An OUT that exists is not written to.\n\n\
    Examples:\n  \
    swav data pack photos/ shards/\n  \
    swav data pack photos/ shards/ --shard-size 1GB\n  \
    swav data pack photos/ shards/ --shard-size 10000";

/// `swav data scan`
#[derive(Debug, Args)]
pub struct Scan {
    /// Images, in any form that training takes.
    pub path: PathBuf,
    /// How they are laid out; found out by default.
    #[arg(long, value_name = "FORMAT", default_value_t = Format::Auto)]
    pub format: Format,
    /// Also list images with a side of fewer pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = 0)]
    pub min_size: u32,
    /// Images with more pixels count as corrupt, as in data.max_pixels of a recipe.
    #[arg(long, value_name = "PIXELS", default_value_t = DEFAULT_MAX_PIXELS)]
    pub max_pixels: u64,
    /// Threads; 0 for all cores.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub workers: usize,
    /// Write the table to a file (.tsv, .csv or .json) instead; what it sums up to is printed.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `swav data pack`
#[derive(Debug, Args)]
pub struct Pack {
    /// Images, in any form that training takes.
    pub path: PathBuf,
    /// Folder to make; the shards are called after it, OUT/OUT-000000.tar and so on.
    pub out: PathBuf,
    /// When a shard is full: a number of samples (10000) or a size (256MB, 1GB, 512MiB).
    #[arg(long, value_name = "N", default_value = "256MB")]
    pub shard_size: ShardSize,
    /// How the images are laid out; found out by default.
    #[arg(long, value_name = "FORMAT", default_value_t = Format::Auto)]
    pub format: Format,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `swav devices`
#[derive(Debug, Args)]
pub struct Devices {
    /// Check that a device computes right, and measure how fast: exit code 4 if it does not.
    #[arg(long)]
    pub check: bool,
    /// The device to check: auto, cpu, wgpu, wgpu:1, cuda or cuda:1.
    #[arg(long, value_name = "DEVICE", default_value_t = Choice::Auto, requires = "check")]
    pub device: Choice,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// Be the process that computes.
    #[arg(long, hide = true, requires = "check")]
    pub worker: bool,
    /// Put the results of this case 1 % off, to see that the check finds it.
    #[arg(long, value_name = "CASE", hide = true, requires = "check")]
    pub planted: Option<String>,
}

/// `swav bench …`
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Time whole training steps of SwAV, phase by phase.
    Step(BenchStep),
    /// Time scores to codes.
    Sinkhorn(BenchSinkhorn),
    /// Time the k-means of a bank of embeddings.
    Kmeans(BenchKmeans),
}

/// `swav bench step`
#[derive(Debug, Args)]
pub struct BenchStep {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// An architecture with the ImageNet stem, or cifar10-slim for the network of that recipe.
    #[arg(long, default_value = "resnet50")]
    pub arch: String,
    /// The crops of an image, NUMBERxSIZE for each resolution; the first two give the codes.
    #[arg(long, default_value = "2x96+4x48")]
    pub crops: CropGroups,
    /// Images of a step.
    #[arg(long, default_value = "16", value_parser = number(2))]
    pub batch: usize,
    /// Prototypes.
    #[arg(long, default_value = "3000", value_parser = number(2))]
    pub prototypes: usize,
    /// What crops and activations are computed in: f32 or bf16.
    #[arg(long, default_value = "f32")]
    pub precision: Precision,
    /// Compute activations once more in the backward pass, as with train.checkpoint_activations.
    #[arg(long)]
    pub checkpoint_activations: bool,
    /// Seconds after which the clock counts although steps still differ, on a device that tunes its kernels.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub warm_up: u64,
}

/// `swav bench sinkhorn`
#[derive(Debug, Args)]
pub struct BenchSinkhorn {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Samples x prototypes, or heads x samples x prototypes.
    #[arg(long, value_delimiter = ',', default_value = "4096x3000")]
    pub sizes: Vec<ScoresSize>,
    /// Rounds of Sinkhorn-Knopp.
    #[arg(long, default_value = "3", value_parser = number(1))]
    pub iterations: usize,
}

/// `swav bench kmeans`
#[derive(Debug, Args)]
pub struct BenchKmeans {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Embeddings in the bank.
    #[arg(long, default_value = "50000", value_parser = number(1))]
    pub samples: usize,
    /// Numbers of an embedding.
    #[arg(long, default_value = "128", value_parser = number(1))]
    pub dim: usize,
    /// Clusters, no more than samples.
    #[arg(long, default_value = "3000", value_parser = number(1))]
    pub centroids: usize,
    /// Rounds of k-means.
    #[arg(long, default_value = "10", value_parser = number(1))]
    pub iterations: usize,
}

/// A number of things, `least` or more.
fn number(least: i64) -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser;
    let numbers = clap::value_parser!(u32).range(least..);
    numbers.map(|number| number as usize)
}

/// The crops of an image: `2x96+4x48`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CropGroups {
    /// As it was written.
    pub text: String,
    /// For each resolution, how many, and their side in pixels.
    pub groups: Vec<(usize, usize)>,
}

impl FromStr for CropGroups {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let group = |group: &str| {
            let (count, size) = group.split_once('x')?;
            match (count.parse().ok()?, size.parse().ok()?) {
                (count @ 1..=100, size @ 8..=1024) => Some((count, size)),
                _ => None,
            }
        };
        let groups = text.split('+').map(|part| {
            group(part).ok_or_else(|| format!("`{part}` is not like 2x96, two crops of 96 pixels"))
        });
        let groups: Vec<(usize, usize)> = groups.collect::<Result<_, _>>()?;
        if groups.iter().map(|group| group.0).sum::<usize>() < 2 {
            return Err("one crop has no other to predict".to_string());
        }
        Ok(Self {
            text: text.to_string(),
            groups,
        })
    }
}

/// Heads, samples and prototypes: `4096x3000` with one head, `3x4096x3000` with three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoresSize(pub [usize; 3]);

impl FromStr for ScoresSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
        let size = match numbers.as_deref() {
            Ok(&[samples, prototypes]) => [1, samples, prototypes],
            Ok(&[heads, samples, prototypes]) => [heads, samples, prototypes],
            _ => [0; 3],
        };
        match size.contains(&0) {
            true => Err("expected 4096x3000 or, with heads, 3x4096x3000".to_string()),
            false => Ok(Self(size)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn crops_are_a_number_and_a_size_for_each_resolution() {
        let crops: CropGroups = "2x96+4x48".parse().unwrap();
        assert_eq!(crops.groups, [(2, 96), (4, 48)]);
        for wrong in ["", "2", "1x96", "2x96+", "2x4", "0x96", "2xx"] {
            assert!(wrong.parse::<CropGroups>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_size_of_scores_has_one_head_unless_it_says_more() {
        assert_eq!("4096x3000".parse(), Ok(ScoresSize([1, 4096, 3000])));
        assert_eq!("3x256x30".parse(), Ok(ScoresSize([3, 256, 30])));
        for wrong in ["", "4096", "4096x0", "1x2x3x4", "ax3"] {
            assert!(wrong.parse::<ScoresSize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
