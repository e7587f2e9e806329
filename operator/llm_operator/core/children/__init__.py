"""The objects behind an LLMDeployment: what they are to be, and whether they still are."""
