"""OracleKD: of several teachers, those that are right about a sample teach it. See the folder's README."""

from composer_kd.algorithms.oracle_kd.oracle_kd import OracleKD

__all__ = ['OracleKD']
