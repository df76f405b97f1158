"""Generated from protos/rewardservice/v1 by `make protos`; never edited by hand."""
