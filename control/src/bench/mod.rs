//! stub
#[derive(Debug, clap::Args)]
pub struct PipelineOptions {}
#[derive(serde::Serialize)]
pub struct R {}
impl std::fmt::Display for R {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}
pub fn pipeline(_: &PipelineOptions) -> Result<R, String> {
    Err("".into())
}
