"""Does free energy on the pretraining rows tell which checkpoint transfers better? The paper's question."""
