# An upper bound for any map: pressure where the prompt puts its objects. Controls: where='background', where='random'.
_base_ = ['vipo_tiny_sd3.py']

structurer = dict(_delete_=True, type='SceneOracleStructurer', where='objects', normalize='mean')
