-- One database each: MLflow and Prefect migrate theirs on their own, and are backed up apart.
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
