"""temp"""
from gpt2jax.config import recipe
def get_config(argument: str = ''):
    return recipe({'data.tokenizer':'bpe:1024','data.length':64,'model.width':64,'model.num_layers':2,'model.attention.num_heads':4,'training.steps':60,'training.batch_size':8,'optimizer.warmup_steps':10,'evaluation.every':20,'checkpoint.every_steps':15, 'model.dropout':0.1}, argument)
