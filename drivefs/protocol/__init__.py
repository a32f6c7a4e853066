"""What client and backend both speak: identifiers, the model, messages and the block codec; pure, no I/O."""
