"""tinyBIG: a drop-in for its class whose weights last, and the import of models that it has made."""

from weightloom_client.torch.tinybig.drop_in import random_matrix_hypernet_reconciliation
from weightloom_client.torch.tinybig.importing import Imported, import_tinybig

__all__ = ["Imported", "import_tinybig", "random_matrix_hypernet_reconciliation"]
