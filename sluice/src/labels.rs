//! Labels as arguments: those that something has, and those that something is chosen by.

use clap::Args;

/// The labels of a node.
#[derive(Args)]
pub struct NodeLabels {
    /// A label of this node, `zone=a` for example, by which `sluice nodes`, `--wait-label` and rollouts choose nodes; may be
    /// given several times, or several with commas
    #[arg(long = "label", env = "SLUICE_LABELS", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = parse)]
    labels: Vec<(String, String)>,
}

impl NodeLabels {
    pub fn apply(&self, settings: &mut data_plane::settings::Settings) {
        settings.labels = self.labels.iter().cloned().collect();
    }
}

/// One label with its value.
pub fn parse(text: &str) -> Result<(String, String), String> {
    let label = text.split_once('=').filter(|(key, _)| !key.is_empty());
    label.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| "write `key=value`".to_owned())
}
