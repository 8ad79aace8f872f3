//! What the commands share: from arguments to a plan with its data, and to a trained network.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use swav_data::{DataError, Format, Source};
use swav_model::{Network, NetworkConfig};
use swav_train::precision::{Bf16, Precision};
use swav_train::{Facts, Plan, Recipe, State, TrainError, checkpoint, data, trained, weights_file};

use burn::tensor::Device;

use crate::args::{RecipeArgs, RunArgs, RunsArgs};
use crate::device::Found;
use crate::output::note;

/// A plan, the recipe that it was made by, and the images it was made for.
pub struct Prepared {
    /// What was asked for.
    pub recipe: Recipe,
    /// What will run.
    pub plan: Plan,
    /// The training images.
    pub source: Arc<dyn Source>,
    /// Held-out images.
    pub test: Option<Arc<dyn Source>>,
}

/// The recipe that the arguments ask for, with absolute paths.
pub fn recipe(args: &RecipeArgs) -> Result<Recipe, TrainError> {
    recipe_over(Recipe::default(), args)
}

/// The recipe that the arguments ask for, with absolute paths; what they leave open is as in `base`, unless they name a recipe
/// of their own.
pub fn recipe_over(base: Recipe, args: &RecipeArgs) -> Result<Recipe, TrainError> {
    let mut recipe = match &args.config {
        Some(path) => Recipe::from_file(path)?,
        None => base,
    };
    recipe = recipe.set_all(&args.overrides)?;
    if let Some(path) = &args.data {
        recipe.data.path = Some(path.clone());
    }
    if let Some(path) = &args.test {
        recipe.data.test = Some(path.clone());
    }
    if let Some(path) = &args.init {
        recipe.model.init = Some(path.clone());
    }
    let data = &mut recipe.data;
    let init = &mut recipe.model.init;
    let paths = [&mut data.path, &mut data.test, &mut data.labels, init];
    for path in paths.into_iter().flatten() {
        *path = data::resolve(path)?;
    }
    Ok(recipe)
}

/// Opens the data of `recipe` and plans the run of so many `ranks`. Where it begins with weights, their network is `known` or read
/// from them.
pub fn prepare(
    recipe: &Recipe,
    device: &Found,
    known: Option<&NetworkConfig>,
    ranks: usize,
) -> Result<Prepared, TrainError> {
    let path = recipe.data.path.clone().ok_or_else(|| {
        TrainError::Recipe("no data: give --data PATH, or [data] path in the recipe".to_string())
    })?;
    let format = recipe.data.format.unwrap_or(Format::Auto);
    let source = open_labelled(&path, format, recipe.data.labels.as_deref())?;
    let test = open_test(recipe.data.test.as_deref(), source.as_ref())?;
    let available = device.memory.map(|memory| memory.available);
    let facts = Facts::look(
        source.as_ref(),
        device.accelerated,
        device.bf16(),
        available,
        ranks,
    )?;
    let plan = match &recipe.model.init {
        None => Plan::derive(recipe, &facts)?,
        Some(init) => {
            let network = known
                .cloned()
                .map_or_else(|| weights_file::network(init), Ok)?;
            weights_file::follow(recipe, init, &network, &facts)?
        }
    };
    Ok(Prepared {
        recipe: recipe.clone(),
        plan,
        source,
        test,
    })
}

/// Opens the data of a saved plan. What fitted when the run began may be tight now, and is tried; what is more than the device
/// has is refused.
pub fn reopen(recipe: Recipe, plan: Plan, device: &Found) -> Result<Prepared, TrainError> {
    if let Some(memory) = device.memory {
        plan.require_memory(memory.total)?;
    }
    if plan.train.precision == Precision::Bf16 && device.bf16() == Bf16::Missing {
        return Err(TrainError::Recipe(format!(
            "the run is trained in bf16, which {} does not have: continue it with --set train.precision=f32, or on another \
             --device",
            device.choice
        )));
    }
    let source = training_images(&plan).inspect_err(|error| {
        if matches!(error, TrainError::Data(DataError::NotFound { .. })) {
            note("if the images have moved, say where to with --data");
        }
    })?;
    let test = open_test(plan.data.test.as_deref(), source.as_ref())?;
    Ok(Prepared {
        recipe,
        plan,
        source,
        test,
    })
}

/// The images that a run was planned for.
pub fn training_images(plan: &Plan) -> Result<Arc<dyn Source>, TrainError> {
    let data = &plan.data;
    if plan.is_of_weights() {
        let problem = "a file of weights knows of no images: give --train PATH and --test PATH";
        return Err(TrainError::Recipe(problem.to_string()));
    }
    open_labelled(&data.path, data.format, data.labels.as_deref())
}

/// Opens images; what there is to say of them goes to stderr.
pub fn open(path: &Path, format: Format) -> Result<Arc<dyn Source>, TrainError> {
    open_labelled(path, format, None)
}

/// As [`open`]; where there is a text file `labels`, it says what the labels are.
pub fn open_labelled(
    path: &Path,
    format: Format,
    labels: Option<&Path>,
) -> Result<Arc<dyn Source>, TrainError> {
    let source = data::open_labelled(path, format, labels)?;
    source.notes().iter().for_each(note);
    Ok(source)
}

fn open_test(
    path: Option<&Path>,
    train: &dyn Source,
) -> Result<Option<Arc<dyn Source>>, TrainError> {
    let Some(path) = path else {
        return Ok(None);
    };
    let test = open(path, Format::Auto)?;
    data::of_classes(test, train.classes(), path).map(Some)
}

/// The run directory asked for, or else the first free one after `name` under `runs/`.
pub fn run_path(out: Option<&Path>, name: &str) -> PathBuf {
    if let Some(path) = out {
        return path.to_path_buf();
    }
    let runs = Path::new("runs");
    let first = runs.join(name);
    if !first.exists() {
        return first;
    }
    (2..)
        .map(|i| runs.join(format!("{name}-{i}")))
        .find(|path| !path.exists())
        .unwrap_or(first)
}

/// The plan of a run, with the checkpoint that is meant, or of a file of weights.
pub fn trained(args: &RunArgs) -> Result<(Plan, PathBuf), TrainError> {
    let (mut plan, checkpoint) = trained::find(&args.run, &mut note)?;
    if let Some(size) = args.view.size {
        plan.see_at(size as usize)?;
    }
    if let Some(budget) = args.view.corrupt_budget {
        plan.data.corrupt_budget = budget;
    }
    Ok((plan, checkpoint))
}

/// One of the networks that are judged.
pub struct Trained {
    /// Of its run, or of a file of weights.
    pub plan: Plan,
    /// Where its weights are.
    pub checkpoint: PathBuf,
    /// What it is called beside others: `RUN-step-00000195`, or the file's name.
    pub name: String,
    /// Epochs that it was trained for, if it is a run's.
    pub epoch: Option<f64>,
}

impl Trained {
    /// The network on `device`, or as it was before training.
    pub fn network(&self, untrained: bool, device: &Device) -> Result<Network, TrainError> {
        if untrained {
            return State::initial(&self.plan, device, &mut note);
        }
        trained::network(&self.checkpoint, &self.plan, device)
    }
}

/// All networks that are meant, in the order given, each with a name of its own.
pub fn all_trained(args: &RunsArgs) -> Result<Vec<Trained>, TrainError> {
    let mut all: Vec<Trained> = Vec::with_capacity(args.runs.len());
    for run in &args.runs {
        let (plan, checkpoint) = trained(&RunArgs {
            run: run.clone(),
            view: args.view,
        })?;
        let called = |path: Option<&Path>| {
            let name = path.and_then(Path::file_name);
            name.map_or(String::new(), |name| name.to_string_lossy().into_owned())
        };
        let (name, epoch) = if checkpoint.is_dir() {
            let step = checkpoint::summary(&checkpoint)?.step;
            let run = called(checkpoint.parent().and_then(Path::parent));
            let name = format!("{run}-{}", called(Some(&checkpoint)));
            let epoch = step as f64 / plan.train.steps_per_epoch as f64;
            (name, Some(epoch))
        } else {
            (called(Some(&checkpoint)), None)
        };
        let taken = |name: &String| all.iter().any(|other| other.name == *name);
        let name = match taken(&name) {
            false => name,
            true => (2..)
                .map(|i| format!("{name}-{i}"))
                .find(|name| !taken(name))
                .unwrap_or(name),
        };
        all.push(Trained {
            plan,
            checkpoint,
            name,
            epoch,
        });
    }
    Ok(all)
}
