"""What is on a machine, and whether training works there; see `str_keras.doctor`.

Nothing here imports TensorFlow, Keras or the rest of the package into this process: it
runs where those are missing, broken, or end the process that imports them.
"""

from str_keras.diagnosis.combinations import examine_combinations
from str_keras.diagnosis.environment import examine_environment
from str_keras.diagnosis.finding import Finding, as_record, as_text
from str_keras.diagnosis.machine import examine_machine
from str_keras.diagnosis.packages import examine_packages
from str_keras.diagnosis.trying import Trial, examine_trial, try_training

__all__ = [
    "Finding",
    "Trial",
    "as_record",
    "as_text",
    "examine_combinations",
    "examine_environment",
    "examine_machine",
    "examine_packages",
    "examine_trial",
    "try_training",
]
